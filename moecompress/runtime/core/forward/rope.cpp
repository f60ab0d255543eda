#include "forward/rope.h"

#include <cmath>

namespace moecompress {

namespace {

// Taylor polynomials on [-pi/4, pi/4]: errors below 1e-15, far under half a float32 unit.
double sine_near_zero(double x) {
    const double y = x * x;
    return x * (1 + y * (-1.0 / 6 + y * (1.0 / 120 + y * (-1.0 / 5040 + y * (1.0 / 362880 + y * (-1.0 / 39916800 +
           y * (1.0 / 6227020800.0)))))));
}

double cosine_near_zero(double x) {
    const double y = x * x;
    return 1 + y * (-1.0 / 2 + y * (1.0 / 24 + y * (-1.0 / 720 + y * (1.0 / 40320 + y * (-1.0 / 3628800 +
           y * (1.0 / 479001600.0 + y * (-1.0 / 87178291200.0)))))));
}

struct Turn {
    double cosine, sine;
};

// pi/2 in two parts, the first with zeros at the end, so that quarter * first is exact for angles below 2^20.
Turn turn(double angle) {
    constexpr double two_over_pi = 0.63661977236758134308;
    constexpr double first = 1.57079632673412561417;
    constexpr double second = 6.07710050650619224932e-11;
    const double quarter = std::nearbyint(angle * two_over_pi);
    const double rest = (angle - quarter * first) - quarter * second;
    const double s = sine_near_zero(rest), c = cosine_near_zero(rest);
    switch (static_cast<int64_t>(quarter) & 3) {
        case 0: return {c, s};
        case 1: return {-s, c};
        case 2: return {-c, -s};
        default: return {s, -c};
    }
}

}  // namespace

void rope_angles(int64_t position, const std::vector<float>& frequencies, float scale, float* cosine, float* sine) {
    for (size_t i = 0; i < frequencies.size(); ++i) {
        const float angle = static_cast<float>(position) * frequencies[i];
        const Turn value = turn(angle);
        cosine[i] = static_cast<float>(value.cosine) * scale;
        sine[i] = static_cast<float>(value.sine) * scale;
    }
}

void rope_rotate(float* head, const float* cosine, const float* sine, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const float low = head[i], high = head[i + count];
        head[i] = low * cosine[i] - high * sine[i];
        head[i + count] = high * cosine[i] + low * sine[i];
    }
}

}  // namespace moecompress
