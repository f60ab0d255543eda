#include "forward/products.h"

#include <algorithm>

namespace moecompress {

void Machine::multiply(const Product* products, size_t count) const {
    int64_t tiles = 0, operations = 0;
    for (size_t i = 0; i < count; ++i) {
        tiles += products[i].weight.tiles();
        operations += products[i].weight.rows * products[i].weight.columns * products[i].input.tokens;
    }
    run(tiles, operations, [&](int64_t first, int64_t last) {
        int64_t start = 0;  // of product i in the tiles of all
        for (size_t i = 0; i < count && start < last; ++i) {
            const Product& product = products[i];
            const int64_t from = std::max<int64_t>(first - start, 0);
            const int64_t to = std::min(last - start, product.weight.tiles());
            if (from < to) kernels.multiply(product.weight, product.input, from, to, product.output, product.stride);
            start += product.weight.tiles();
        }
    });
}

}  // namespace moecompress
