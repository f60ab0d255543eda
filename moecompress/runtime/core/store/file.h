// Files of an artifact: opened once inside its folder, never through a symlink, read with pread.
#pragma once

#include <cstdint>
#include <string>

#include "store/source.h"

namespace moecompress {

// How expert files are read: past the page cache when the file system allows it, always, or never.
enum class InputOutput { automatic, direct, buffered };

constexpr uint64_t io_alignment = 4096;

class File final : public Source {
public:
    File(int descriptor, std::string name, bool direct);
    ~File() override;
    File(File&& other) noexcept;
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    File& operator=(File&&) = delete;

    // Fills target with bytes [offset, offset + bytes). Loops over short and interrupted reads; throws ReadError when
    // the file ends early or the device fails. Direct files need target, bytes and offset aligned to io_alignment.
    // Buffered files drop the pages they read from the page cache.
    void read(uint8_t* target, uint64_t bytes, uint64_t offset) const override;
    uint64_t size() const { return size_; }
    bool direct() const { return direct_; }
    const std::string& name() const override { return name_; }

private:
    int descriptor_;
    std::string name_;
    bool direct_;
    uint64_t size_;
};

class Folder {
public:
    // Throws std::invalid_argument when path is not a folder that can be opened.
    explicit Folder(const std::string& path);
    ~Folder();
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;

    // A regular file directly inside the folder; throws std::invalid_argument for anything else.
    File open_buffered(const std::string& name) const;
    // As asked by `mode`; direct only after one block at `probe_offset` was read both ways and compared.
    File open(const std::string& name, InputOutput mode, uint64_t probe_offset) const;

private:
    static int open_folder(const std::string& path);
    int open_descriptor(const std::string& name, int flags) const;
    static bool direct_gives_same_bytes(int direct, const File& buffered, uint64_t offset);

    int descriptor_;
};

}  // namespace moecompress
