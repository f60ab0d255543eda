#include "store/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "store/errors.h"
#include "store/region.h"

namespace moecompress {

namespace {

constexpr uint64_t read_piece = uint64_t(4) << 20;

std::string reason() { return std::strerror(errno); }

}  // namespace

File::File(int descriptor, std::string name, bool direct)
    : descriptor_(descriptor), name_(std::move(name)), direct_(direct), size_(0) {
    struct stat status {};
    if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
        close(descriptor_);
        throw std::invalid_argument(name_ + " is not a regular file; an artifact holds only regular files.");
    }
    size_ = static_cast<uint64_t>(status.st_size);
}

File::~File() {
    if (descriptor_ >= 0) close(descriptor_);
}

File::File(File&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      name_(std::move(other.name_)),
      direct_(other.direct_),
      size_(other.size_) {}

void File::read(uint8_t* target, uint64_t bytes, uint64_t offset) const {
    uint64_t done = 0;
    while (done < bytes) {
        const uint64_t piece = std::min(bytes - done, read_piece);
        const ssize_t got = pread(descriptor_, target + done, piece, static_cast<off_t>(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            throw ReadError("Reading " + name_ + " at byte " + std::to_string(offset + done) + " failed: " + reason() +
                            ".");
        const bool torn = direct_ && got % static_cast<ssize_t>(io_alignment) != 0;
        if (!direct_) posix_fadvise(descriptor_, static_cast<off_t>(offset + done), got, POSIX_FADV_DONTNEED);
        done += static_cast<uint64_t>(got);
        if (got == 0 || torn)
            throw ReadError(name_ + " ends at byte " + std::to_string(offset + done) + ", " +
                            std::to_string(bytes - done) +
                            " bytes too early: it was shortened after it was opened. Restore the artifact.");
    }
}

Folder::Folder(const std::string& path) : descriptor_(open_folder(path)) {}

Folder::~Folder() { close(descriptor_); }

int Folder::open_folder(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) throw std::invalid_argument("Cannot open the folder " + path + ": " + reason() + ".");
    return descriptor;
}

int Folder::open_descriptor(const std::string& name, int flags) const {
    if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos)
        throw std::invalid_argument("'" + name + "' is not the name of a file inside the artifact's folder.");
    return openat(descriptor_, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | flags);
}

File Folder::open_buffered(const std::string& name) const {
    const int descriptor = open_descriptor(name, 0);
    if (descriptor < 0)
        throw std::invalid_argument("Cannot open " + name + " of the artifact: " + reason() +
                                    ". Symbolic links are refused.");
    posix_fadvise(descriptor, 0, 0, POSIX_FADV_RANDOM);
    return File(descriptor, name, false);
}

File Folder::open(const std::string& name, InputOutput mode, uint64_t probe_offset) const {
    File buffered = open_buffered(name);
    if (mode == InputOutput::buffered) return buffered;
    const int direct = open_descriptor(name, O_DIRECT);
    if (direct >= 0 && direct_gives_same_bytes(direct, buffered, probe_offset)) return File(direct, name, true);
    if (direct >= 0) close(direct);
    if (mode == InputOutput::direct)
        throw std::invalid_argument("The file system of " + name +
                                    " does not support direct reads (O_DIRECT); choose automatic or buffered.");
    return buffered;
}

bool Folder::direct_gives_same_bytes(int direct, const File& buffered, uint64_t offset) {
    if (offset % io_alignment != 0 || offset > buffered.size() || buffered.size() - offset < io_alignment) return false;
    const Region blocks(2 * io_alignment);
    uint8_t* const expected = blocks.data() + io_alignment;
    ssize_t got = -1;
    do got = pread(direct, blocks.data(), io_alignment, static_cast<off_t>(offset));
    while (got < 0 && errno == EINTR);
    if (got != static_cast<ssize_t>(io_alignment)) return false;
    buffered.read(expected, io_alignment, offset);
    return std::memcmp(blocks.data(), expected, io_alignment) == 0;
}

}  // namespace moecompress
