// Matrix products of one or several packed matrices, split over the threads by tiles of output rows.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/threads.h"

namespace moecompress {

// What one element of an element-wise step costs, in multiply-adds of a product.
constexpr int64_t element_operations = 32;

// output[token * stride + row] = weight x input
struct Product {
    PackedMatrix weight;
    Activations input;
    float* output;
    int64_t stride;
};

// What the forward pass computes with.
struct Machine {
    // Fewer multiply-adds than this take less time than waking a thread.
    static constexpr int64_t worth_splitting = 200000;

    const Kernels& kernels;
    ThreadPool& pool;

    // body(first, last) over [0, items), on all threads if `operations` multiply-adds are worth it.
    template <class Body>
    void run(int64_t items, int64_t operations, Body&& body) const {
        if (operations >= worth_splitting)
            pool.run(items, body);
        else if (items > 0)
            body(int64_t{0}, items);
    }

    void multiply(const Product* products, size_t count) const;
    void multiply(std::initializer_list<Product> products) const { multiply(products.begin(), products.size()); }
    void multiply(const std::vector<Product>& products) const { multiply(products.data(), products.size()); }
};

}  // namespace moecompress
