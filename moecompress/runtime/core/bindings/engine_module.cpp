// The engine's face in Python: `Model`, its memory needs, and what it raises.
#include <malloc.h>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/experts.h"
#include "bindings/priors.h"
#include "forward/model.h"
#include "store/errors.h"

namespace nb = nanobind;

namespace moecompress {
namespace {

using Tokens = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Logits = nb::ndarray<nb::numpy, float, nb::ndim<2>>;
using TrunkTuple = std::tuple<std::string, std::string, bool, TensorTuple>;  // (role, file, is a vector, tensor)

template <typename T>
T field(const nb::dict& values, const char* key) {
    if (!values.contains(key)) throw std::invalid_argument(std::string("The engine needs the value '") + key + "'.");
    T result;
    if (!nb::try_cast<T>(values[key], result))
        throw std::invalid_argument(std::string("The engine cannot use the value of '") + key + "': type or range.");
    return result;
}

template <typename T>
using Names = std::initializer_list<std::pair<const char*, T>>;

template <typename T>
T named(const std::string& name, const char* key, Names<T> allowed) {
    for (const auto& [known, value] : allowed)
        if (name == known) return value;
    throw std::invalid_argument(std::string("The engine does not know '") + name + "' for '" + key + "'.");
}

template <typename T>
T choice(const nb::dict& values, const char* key, Names<T> allowed) {
    return named<T>(field<std::string>(values, key), key, allowed);
}

KeyValueType key_value_type(const std::string& name) {
    return named<KeyValueType>(name, "kv", {{"int16", KeyValueType::int16}, {"int8", KeyValueType::int8}});
}

ModelConfig parse_config(const nb::dict& values) {
    ModelConfig config;
    config.hidden = field<int64_t>(values, "hidden");
    config.vocabulary = field<int64_t>(values, "vocabulary");
    config.heads = field<int64_t>(values, "heads");
    config.key_value_heads = field<int64_t>(values, "key_value_heads");
    config.head_size = field<int64_t>(values, "head_size");
    config.norm_epsilon = float(field<double>(values, "norm_epsilon"));
    config.head_norm = choice<HeadNorm>(
        values, "head_norm", {{"none", HeadNorm::none}, {"per_head", HeadNorm::per_head}, {"full", HeadNorm::full}});
    config.clip = float(field<double>(values, "clip"));
    config.attention_scale = float(field<double>(values, "attention_scale"));
    for (const double frequency : field<std::vector<double>>(values, "rope_frequencies"))
        config.rope_frequencies.push_back(float(frequency));
    config.rope_scale = float(field<double>(values, "rope_scale"));
    config.top_k = field<int64_t>(values, "top_k");
    config.renormalise = field<bool>(values, "renormalise");
    for (const auto& [sparse, window] : field<std::vector<std::pair<bool, int64_t>>>(values, "layers"))
        config.layers.push_back({sparse, window});
    return config;
}

ModelFiles parse_files(const std::string& folder, const std::vector<TrunkTuple>& trunk,
                       const std::vector<LayerTuple>& experts) {
    ModelFiles files;
    files.folder = folder;
    for (const auto& [role, file, vector, tensor] : trunk)
        files.trunk.push_back({role, file, vector, parse_tensor(tensor)});
    files.experts = parse_layers(experts);
    return files;
}

ModelOptions parse_options(const nb::dict& values) {
    ModelOptions options;
    options.threads = field<int>(values, "threads");
    options.context = field<int64_t>(values, "context");
    options.chunk = field<int64_t>(values, "chunk");
    options.key_values = key_value_type(field<std::string>(values, "kv"));
    options.isa = field<std::string>(values, "isa");
    options.store.slots = field<int>(values, "slots");
    options.store.lanes = field<int>(values, "lanes");
    options.store.policy = field<std::string>(values, "policy");
    options.store.io = choice<InputOutput>(values, "io",
                                           {{"automatic", InputOutput::automatic},
                                            {"direct", InputOutput::direct},
                                            {"buffered", InputOutput::buffered}});
    options.store.speculation = choice<Speculation>(values, "speculation",
                                                    {{"off", Speculation::off},
                                                     {"auto", Speculation::automatic},
                                                     {"on", Speculation::on}});
    options.predictor = field<std::string>(values, "predictor");
    options.priors = parse_priors(values["priors"]);
    options.store.overlap = field<bool>(values, "overlap");
    return options;
}

// Ctrl-C reaches Python between layers; the pending exception is raised once the forward pass has stopped.
bool signal_pending() {
    const nb::gil_scoped_acquire guard;
    return PyErr_CheckSignals() != 0;
}

Logits forward(Model& model, const Tokens& tokens, bool all) {
    const size_t count = tokens.size();
    const size_t shape[2] = {all ? count : 1, size_t(model.config().vocabulary)};
    auto values = std::make_unique<float[]>(shape[0] * shape[1]);
    try {
        const nb::gil_scoped_release release;
        model.forward(tokens.data(), int64_t(count), all, values.get(), signal_pending);
    } catch (const Cancelled&) {
        if (PyErr_Occurred() != nullptr) throw nb::python_error();
        throw;
    }
    float* const data = values.release();
    const nb::capsule owner(data, [](void* memory) noexcept { delete[] static_cast<float*>(memory); });
    return Logits(data, 2, shape, owner);
}

template <typename T>
nb::ndarray<nb::numpy, T> copied(const std::vector<T>& values, int64_t tokens, int layers, int64_t width) {
    const size_t shape[3] = {size_t(tokens), size_t(layers), size_t(width)};
    auto kept = std::make_unique<T[]>(values.size());
    std::copy(values.begin(), values.end(), kept.get());
    T* const data = kept.release();
    const nb::capsule owner(data, [](void* memory) noexcept { delete[] static_cast<T*>(memory); });
    return nb::ndarray<nb::numpy, T>(data, 3, shape, owner);
}

nb::tuple routing(const Model& model) {
    if (!model.record()) throw std::invalid_argument("The routing is not recorded; call record_routing() first.");
    const RoutingRecord& record = *model.record();
    const int64_t tokens = record.tokens();
    return nb::make_tuple(copied(record.chosen(), tokens, record.layers(), record.top_k()),
                          copied(record.weight(), tokens, record.layers(), record.top_k()),
                          copied(record.guess(), tokens, record.layers(), record.guesses()));
}

int32_t next(Model& model, const Tokens& tokens, double temperature, double top_p, int64_t top_k, double uniform) {
    try {
        const nb::gil_scoped_release release;
        return model.next(tokens.data(), int64_t(tokens.size()), {temperature, top_p, top_k}, uniform, signal_pending);
    } catch (const Cancelled&) {
        if (PyErr_Occurred() != nullptr) throw nb::python_error();
        throw;
    }
}

int32_t sample(const Floats& logits, double temperature, double top_p, int64_t top_k, double uniform) {
    if (logits.size() == 0) throw std::invalid_argument("There is no token to choose: the vocabulary is empty.");
    Sampler sampler(int64_t(logits.size()));
    std::copy_n(logits.data(), logits.size(), sampler.logits());
    return sampler.next({temperature, top_p, top_k}, uniform);
}

nb::dict memory_needs(const nb::dict& config, const std::vector<TrunkTuple>& trunk,
                      const std::vector<LayerTuple>& experts, int64_t context, int64_t chunk, const std::string& kv) {
    const MemoryNeeds needs =
        Model::needs(parse_config(config), parse_files("", trunk, experts), context, chunk, key_value_type(kv));
    nb::dict result;
    result["trunk"] = needs.trunk;
    result["key_value"] = needs.key_value;
    result["scratch"] = needs.scratch;
    result["sampling"] = needs.sampling;
    result["slot"] = needs.slot;
    result["all_experts"] = needs.all_experts;
    result["experts"] = needs.experts;
    return result;
}

// Freed memory goes back to the system at once and threads share one heap, so that resident memory follows use.
void tidy_heap() {
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_THRESHOLD, 256 * 1024);
    mallopt(M_TRIM_THRESHOLD, 256 * 1024);
    malloc_trim(0);
}

void bind_model(nb::module_& m) {
    nb::class_<Model>(m, "Model", "One model in memory. All values are checked; the caller serialises its calls.")
        .def(
            "__init__",
            [](Model* self, const std::string& folder, const nb::dict& config, const std::vector<TrunkTuple>& trunk,
               const std::vector<LayerTuple>& experts, const nb::dict& options) {
                const ModelConfig parsed = parse_config(config);
                const ModelFiles files = parse_files(folder, trunk, experts);
                const ModelOptions chosen = parse_options(options);
                const nb::gil_scoped_release release;
                new (self) Model(parsed, files, chosen);
            },
            nb::arg("folder"), nb::arg("config"), nb::arg("trunk"), nb::arg("experts"), nb::arg("options"))
        .def("forward", &forward, nb::arg("tokens").noconvert(), nb::arg("all_logits") = false,
             "Append int32 tokens at the current position; logits [n, vocabulary], or [1, vocabulary] of the last.")
        .def("next", &next, nb::arg("tokens").noconvert(), nb::arg("temperature") = 0.0, nb::arg("top_p") = 1.0,
             nb::arg("top_k") = 0, nb::arg("uniform") = 0.0,
             "Append int32 tokens and choose the one that follows; `uniform` in [0, 1) decides when not greedy.")
        .def("cancel", &Model::cancel,
             "End the forward pass that runs, or the next one, with Cancelled; from any thread.")
        .def("reset", &Model::reset, nb::arg("length") = 0, "Forget positions from `length` on, and a pending cancel.")
        .def(
            "stats",
            [](Model& model) { return store_statistics(model.store().statistics(), model.store().direct()); },
            "Counters of the expert store since it was opened or they were cleared.")
        .def("clear_stats", [](Model& model) { model.store().clear_statistics(); }, "Set all counters to zero.")
        .def("record_routing", &Model::record_routing, nb::arg("guesses") = 0,
             "Keep the routing of the latest forward pass, and so many guesses of each router one layer early.")
        .def("routing", &routing,
             "Experts uint16 [n, layers, top-k] and weights float32 of the latest forward pass, and the guesses uint16 "
             "[n, layers, guesses], 65535 for none.")
        .def_prop_ro("position", &Model::position)
        .def_prop_ro("context", &Model::context)
        .def_prop_ro("isa", [](const Model& model) { return std::string(model.kernels().name); });
}

}  // namespace
}  // namespace moecompress

void bind_engine(nb::module_& m) {
    using namespace moecompress;
    nb::exception<ReadError>(m, "ReadError", PyExc_OSError);
    nb::exception<Cancelled>(m, "Cancelled", PyExc_RuntimeError);
    bind_model(m);
    m.def("memory_needs", &memory_needs, nb::arg("config"), nb::arg("trunk"), nb::arg("experts"), nb::arg("context"),
          nb::arg("chunk"), nb::arg("kv") = "int16",
          "Bytes each part of a model will take, from its tables alone; nothing is allocated.");
    m.def("sample", &sample, nb::arg("logits").noconvert(), nb::arg("temperature") = 0.0, nb::arg("top_p") = 1.0,
          nb::arg("top_k") = 0, nb::arg("uniform") = 0.0, "The token that `Model.next` chooses from these logits.");
    m.def("tidy_heap", &tidy_heap, "Let the C heap give freed memory back to the system at once.");
}
