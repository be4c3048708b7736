// The residual of a flow against an observation, in the transform of a calibration (LeastSquares in run.h).
#pragma once

#include "math.h"
#include "run.h"

namespace hs {
namespace HS_ISA {

// w (g(y) - z); `slope` becomes its derivative with respect to y.
template <class V>
HS_FN V residual(int transform, typename Lane<V>::scalar exponent, V y, V shift, V target, V weight, V& slope) {
  using T = typename Lane<V>::scalar;
  V z = y;
  slope = weight;
  const V x = y + shift;
  if (transform == ROOT) {
    z = square_root(x);
    slope = weight * T(0.5) / z;
  } else if (transform == LOGARITHM) {
    z = log2(x) * T(0.69314718055994530942);
    slope = weight / x;
  } else if (transform == BOX_COX) {
    const V power = exp2(log2(x) * exponent);
    z = (power - T(1)) / exponent;
    slope = weight * power / x;
  }
  return weight * (z - target);
}

}  // namespace HS_ISA
}  // namespace hs
