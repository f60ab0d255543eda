// Reader lanes over a source that waits to be told, so that tests see the order of pieces without a clock.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "store/errors.h"
#include "store/lanes.h"

namespace nb = nanobind;

namespace moecompress {
namespace {

using Begun = std::tuple<int, uint64_t, uint64_t>;  // (record, first byte, bytes)

// Lets pieces through one by one.
class Gate {
public:
    void pass(int record, uint64_t begin, uint64_t bytes) {
        std::unique_lock<std::mutex> lock(mutex_);
        begun_.emplace_back(record, begin, bytes);
        changed_.notify_all();
        changed_.wait(lock, [this] { return permits_ > 0; });
        --permits_;
        if (failures_ > 0) {
            --failures_;
            throw ReadError("record " + std::to_string(record) + " is on a broken disk");
        }
    }
    void open(int pieces, bool fail) {
        const std::lock_guard<std::mutex> lock(mutex_);
        permits_ += pieces;
        failures_ += fail ? pieces : 0;
        changed_.notify_all();
    }
    std::vector<Begun> begun(size_t pieces) {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this, pieces] { return begun_.size() >= pieces; });
        return begun_;
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<Begun> begun_;
    int permits_ = 0, failures_ = 0;
};

class GatedRecord final : public Source {
public:
    GatedRecord(Gate& gate, int record, bool foreign)
        : gate_(gate), record_(record), foreign_(foreign), name_("record " + std::to_string(record)) {}

    void read(uint8_t* target, uint64_t bytes, uint64_t offset) const override {
        gate_.pass(record_, offset, bytes);
        std::memset(target, record_, bytes);
        if (offset > 0) return;
        const uint32_t words[6] = {0x5258434du, 1u | 3u << 16, 0, uint32_t(record_) + foreign_, 0, 0};
        std::memcpy(target, words, sizeof words);
    }
    const std::string& name() const override { return name_; }

private:
    Gate& gate_;
    int record_;
    bool foreign_;  // the header names another expert
    std::string name_;
};

class LaneTrial {
public:
    LaneTrial(int lanes, int most_speculative) : lanes_(lanes, most_speculative) {}
    ~LaneTrial() { gate_.open(1 << 20, false); }

    int submit(const std::array<uint64_t, 3>& ends, bool demand, bool foreign) {
        const int number = int(records_.size());
        records_.emplace_back();
        Record& record = records_.back();
        record.source = std::make_unique<GatedRecord>(gate_, number, foreign);
        record.bytes.resize(ends[2]);
        Transfer transfer;
        transfer.source = record.source.get();
        transfer.bytes = ends[2];
        transfer.ends = ends;
        transfer.target = record.bytes.data();
        transfer.expert = number;
        lanes_.submit(record.read, transfer, demand ? Urgency::demand : Urgency::speculative);
        return number;
    }
    Read& read(int number) { return records_.at(size_t(number)).read; }
    Gate& gate() { return gate_; }
    ReaderLanes& lanes() { return lanes_; }

private:
    struct Record {
        std::unique_ptr<Source> source;
        std::vector<uint8_t> bytes;
        Read read;
    };

    Gate gate_;
    std::deque<Record> records_;
    ReaderLanes lanes_;
};

nb::tuple traffic(LaneTrial& trial) {
    const Traffic now = trial.lanes().traffic();
    return nb::make_tuple(now.bytes[0], now.bytes[1], now.demand_seconds, now.delayed_seconds);
}

}  // namespace
}  // namespace moecompress

void bind_lanes(nb::module_& m) {
    using namespace moecompress;
    nb::class_<LaneTrial>(m, "LaneTrial", "Reader lanes whose pieces wait to be let through, for tests.")
        .def(nb::init<int, int>(), nb::arg("lanes") = 1, nb::arg("most_speculative") = 1)
        .def("submit", &LaneTrial::submit, nb::arg("ends"), nb::arg("demand"), nb::arg("foreign") = false,
             "Queue a record whose matrices end at `ends`; its number. A foreign one has a wrong header.")
        .def("promote", [](LaneTrial& trial, int record) { return trial.lanes().promote(trial.read(record)); })
        .def("cancel", [](LaneTrial& trial, int record) { return trial.lanes().cancel(trial.read(record)); })
        .def(
            "wait", [](LaneTrial& trial, int record, int matrices) { trial.lanes().wait(trial.read(record), matrices); },
            nb::arg("record"), nb::arg("matrices") = whole_record, nb::call_guard<nb::gil_scoped_release>())
        .def(
            "settle", [](LaneTrial& trial, int record) { trial.lanes().settle(trial.read(record)); },
            nb::call_guard<nb::gil_scoped_release>())
        .def(
            "open", [](LaneTrial& trial, int pieces, bool fail) { trial.gate().open(pieces, fail); },
            nb::arg("pieces") = 1, nb::arg("fail") = false, "Let pieces through, as failures if asked.")
        .def(
            "begun", [](LaneTrial& trial, size_t pieces) { return trial.gate().begun(pieces); }, nb::arg("pieces") = 0,
            nb::call_guard<nb::gil_scoped_release>(),
            "Wait until so many pieces were begun in all; (record, first byte, bytes) in their order.")
        .def("ready", [](LaneTrial& trial, int record, int matrices) { return trial.read(record).ready(matrices); })
        .def("settled", [](LaneTrial& trial, int record) { return trial.read(record).settled(); })
        .def("failed", [](LaneTrial& trial, int record) { return trial.read(record).failed(); })
        .def("error", [](LaneTrial& trial, int record) { return trial.read(record).error(); })
        .def("traffic", &traffic, "Bytes read ahead and on demand, seconds of demand, and of them delayed ones.");
}
