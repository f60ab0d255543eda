// The extension module: one function per part of the core.
#include <nanobind/nanobind.h>

void bind_kernels(nanobind::module_& m);
void bind_engine(nanobind::module_& m);
void bind_routed(nanobind::module_& m);
void bind_replay(nanobind::module_& m);
void bind_lanes(nanobind::module_& m);

NB_MODULE(_native, m) {
    m.doc() = "The C++ core of the runtime: kernels, forward pass, expert store.";
    bind_kernels(m);
    bind_engine(m);
    bind_routed(m);
    bind_replay(m);
    bind_lanes(m);
}
