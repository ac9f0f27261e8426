// Hash table from lattice keys to ids 0, 1, ... in order of first insertion. Open addressing with
// linear probing, at most half full. Used to number the vertices of a lattice.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../core/key.hpp"
#include "buffer.hpp"
#include "loops/lookup.hpp"

namespace dcrf {

// Each slot has 32 bits: an id in the lower bits and some hash bits of its key (the tag) above.
// Small slots keep the table in cache, and the hash bits avoid most comparisons with other keys.
template <int Words>
class Table {
 public:
  // A table that grows; it is then at most a quarter full, which makes most lookups succeed in the
  // home slot or the next one.
  Table() : Table(11, 0) {}
  // A table for at most `most` keys, which does not grow.
  explicit Table(std::size_t most) : Table(bits_for(most), most) {}

  // Return the id of a key; insert the key if it is new.
  std::int32_t find_or_insert(const Key<Words>& key) {
    const std::uint64_t hash = key.hash();
    std::size_t at = locate(key, hash);
    if (slots_[at] == kEmpty) {
      if (size_ == room_) {
        grow();
        at = locate(key, hash);
      }
      slots_[at] = tag(hash) | std::uint32_t(size_);
      keys_[size_] = key;
      return std::int32_t(size_++);
    }
    return std::int32_t(slots_[at] & id_mask());
  }

  // Return the id of a key, or -1 if the table does not contain it.
  std::int32_t find(const Key<Words>& key) const {
    const std::uint32_t slot = slots_[locate(key, key.hash())];
    return slot == kEmpty ? -1 : std::int32_t(slot & id_mask());
  }

  // find() for several keys at once, so that their memory latencies overlap. About half of the keys
  // are absent, which branch prediction cannot foresee, so the common cases (empty slot, right key)
  // are handled without branches.
  void find_all(const Key<Words>* wanted, int count, std::int32_t* found) const {
    for (int i = 0; i < count; ++i) prefetch(wanted[i]);
    for (int i = 0; i < count; ++i) {
      const std::uint32_t slot = slots_[home(wanted[i].hash())];
      const bool empty = slot == kEmpty;
      const std::uint32_t id = empty ? 0 : slot & id_mask();
      const bool same = keys_[id] == wanted[i];
      found[i] = empty ? -1 : std::int32_t(id);
      if (!(empty | same)) found[i] = find(wanted[i]);
    }
  }

  void prefetch(const Key<Words>& key) const { __builtin_prefetch(&slots_[home(key.hash())]); }

  // Return the table as lookup.hpp needs it; valid until the next insertion. A table that is too
  // large for 32-bit indices looks empty, so that keys are looked up one by one.
  TableView view() const {
    static_assert(Words == 1, "keys of one word");
    TableView out;
    out.slots = slots_.get();
    out.keys = &keys_[0].word[0];
    out.filter = filter_.get();
    out.bits = bits_;
    out.last = fits_view() ? std::int32_t(size_) - 1 : -1;
    return out;
  }
  bool fits_view() const { return bits_ <= 32 - kFilterBits; }

  // Set up TableView::filter for the keys that are in the table now.
  void make_filter() {
    const int bits = bits_ + kFilterBits;
    const std::size_t count = ((std::size_t(1) << bits) + 31) / 32;
    filter_ = make_passing_buffer<std::uint32_t>(std::int64_t(count));
    std::fill_n(filter_.get(), count, 0);
    for (std::size_t id = 0; id < size_; ++id) {
      const std::uint64_t bit = keys_[id].hash() >> (64 - bits);
      filter_[bit >> 5] |= std::uint32_t(1) << (bit & 31);
    }
  }

  std::size_t size() const { return size_; }
  // Return the key of an id. A vector of eight keys may be read from that of any id.
  const Key<Words>& key(std::size_t id) const { return keys_[id]; }

 private:
  // Marks an empty slot. No used slot equals it: ids are below half the number of slots, so the
  // bits of an id are never all ones.
  static constexpr std::uint32_t kEmpty = ~std::uint32_t(0);

  Table(int bits, std::size_t most) : bits_(bits) { allocate(most); }

  static int bits_for(std::size_t most) {
    int bits = 1;
    while ((std::size_t(1) << bits) < 2 * most) ++bits;
    return bits;
  }

  std::uint32_t id_mask() const { return std::uint32_t((std::uint64_t(1) << bits_) - 1); }
  std::uint32_t tag(std::uint64_t hash) const { return std::uint32_t((hash >> 32) << bits_); }
  // Return the slot at which the search for a key begins.
  std::size_t home(std::uint64_t hash) const { return std::size_t(hash >> (64 - bits_)); }

  // Return the slot that contains the key or, if there is none, the empty slot for it.
  std::size_t locate(const Key<Words>& key, std::uint64_t hash) const {
    const std::size_t last = (std::size_t(1) << bits_) - 1;
    const std::uint32_t wanted = tag(hash), mask = id_mask();
    for (std::size_t at = home(hash);; at = (at + 1) & last) {
      const std::uint32_t slot = slots_[at];
      if (slot == kEmpty || ((slot & ~mask) == wanted && keys_[slot & mask] == key)) return at;
    }
  }

  // Make empty slots, and room for `most` keys or, if it is 0, for a quarter as many as slots.
  void allocate(std::size_t most) {
    const std::size_t count = std::size_t(1) << bits_;
    slots_ = make_passing_buffer<std::uint32_t>(std::int64_t(count + 1));
    std::fill_n(slots_.get(), count, kEmpty);
    slots_[count] = 0;  // the slot after the last one in LookupLoops::find: neither empty nor right
    room_ = most > 0 ? most : count / 4;
    Buffer<Key<Words>> keys = make_passing_buffer<Key<Words>>(std::int64_t(room_ + 8));
    std::copy_n(keys_.get(), size_, keys.get());
    keys_ = std::move(keys);
  }

  // Quadruple the number of slots.
  void grow() {
    bits_ += 2;
    allocate(0);
    for (std::size_t id = 0; id < size_; ++id) {
      const std::uint64_t hash = keys_[id].hash();
      slots_[locate(keys_[id], hash)] = tag(hash) | std::uint32_t(id);
    }
  }

  Buffer<std::uint32_t> slots_;   // [2^bits + 1]
  Buffer<std::uint32_t> filter_;  // see TableView
  Buffer<Key<Words>> keys_;       // [ids]
  std::size_t size_ = 0, room_ = 0;  // number of ids, and how many there may be before it grows
  int bits_;                         // log2 of the number of slots
};

}  // namespace dcrf
