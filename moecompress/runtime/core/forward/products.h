// Matrix products of one or several packed matrices, split over the threads by tiles of output rows.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/threads.h"

namespace moecompress {

// output[token * stride + row] = weight x input
struct Product {
    PackedMatrix weight;
    Activations input;
    float* output;
    int64_t stride;
};

// What the forward pass computes with.
struct Machine {
    const Kernels& kernels;
    ThreadPool& pool;

    void multiply(const Product* products, size_t count) const;
    void multiply(std::initializer_list<Product> products) const { multiply(products.begin(), products.size()); }
    void multiply(const std::vector<Product>& products) const { multiply(products.data(), products.size()); }
};

}  // namespace moecompress
