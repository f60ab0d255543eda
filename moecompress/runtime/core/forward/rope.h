// Rotary position embedding in the half-split form of Hugging Face models.
#pragma once

#include <cstdint>
#include <vector>

namespace moecompress {

// cosine[i], sine[i] of position * frequencies[i] (the product rounded to float32), times scale. Same bits everywhere:
// no library function is called.
void rope_angles(int64_t position, const std::vector<float>& frequencies, float scale, float* cosine, float* sine);

// Rotates pairs (i, i + count) of a head, i < count = frequencies.
void rope_rotate(float* head, const float* cosine, const float* sine, int64_t count);

}  // namespace moecompress
