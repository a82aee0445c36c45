#ifndef KVQ_H
#define KVQ_H

/* Written by `cargo xtask header` from kvq-capi/src: edit that. */

#include <stddef.h>
#include <stdint.h>

// Bytes at the start of a cache's memory that its handle takes, on every machine; the storage is the rest.
#define KVQ_HANDLE_BYTES 576

// What became of a call; unless it is `KVQ_STATUS_OK`, the cache is as it was before.
enum KvqStatus
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Done.
  KVQ_STATUS_OK = 0,
  // A pointer is null. got: the number of the argument, from 1 on.
  KVQ_STATUS_NULL = 1,
  // A pointer is not aligned to its type; memory for a cache must be aligned to 8. needed: the alignment, got: the
  // remainder.
  KVQ_STATUS_ALIGNMENT = 2,
  // An array overlaps the cache's memory, or the array that is written.
  KVQ_STATUS_OVERLAP = 3,
  // The pointer leads to no cache that `kvq_init` made at this address.
  KVQ_STATUS_NOT_CACHE = 4,
  // A figure of the configuration is out of range. needed: its largest value.
  KVQ_STATUS_CONFIG = 5,
  // A count is 0 or a head size is not a multiple of 4 up to 256. got: the figure.
  KVQ_STATUS_SHAPE = 6,
  // The policy contradicts itself.
  KVQ_STATUS_POLICY = 7,
  // The memory is too short: see `kvq_minimum_bytes`. Bytes.
  KVQ_STATUS_BUFFER_TOO_SMALL = 8,
  // An array does not have the length that the shape asks for. Values.
  KVQ_STATUS_LENGTH = 9,
  // No such layer. needed: layers of the shape.
  KVQ_STATUS_LAYER = 10,
  // The query rows are no whole number of heads per KV head. needed: a multiple of this, got: values.
  KVQ_STATUS_QUERY_HEADS = 11,
  // A key or value is NaN, infinite or larger than 2^100. needed: its position, got: its KV head.
  KVQ_STATUS_NOT_FINITE = 12,
  // The memory holds no more tokens: see `kvq_capacity_tokens`. needed: tokens after the call, got: capacity.
  KVQ_STATUS_FULL = 13,
  // More tokens asked for than are held. needed: tokens held at most, got: asked for.
  KVQ_STATUS_PAST_END = 14,
  // The buffer for a snapshot is too short: see `kvq_snapshot_bytes`. Bytes.
  KVQ_STATUS_SNAPSHOT_BUFFER = 15,
  // The bytes do not begin like a snapshot.
  KVQ_STATUS_NOT_SNAPSHOT = 16,
  // A snapshot of another version.
  KVQ_STATUS_SNAPSHOT_VERSION = 17,
  // The snapshot is cut off, or bytes follow it. Bytes.
  KVQ_STATUS_SNAPSHOT_LENGTH = 18,
  // The snapshot's bytes were changed. Checksums.
  KVQ_STATUS_SNAPSHOT_CHECKSUM = 19,
  // The snapshot's checksum is right, but no cache can have written it.
  KVQ_STATUS_SNAPSHOT_CONTENT = 20,
  // The snapshot has another shape or policy.
  KVQ_STATUS_MISMATCH = 21,
  // The memory cannot hold what is to be restored. Bytes.
  KVQ_STATUS_ROOM = 22,
  // An error that this interface does not know.
  KVQ_STATUS_OTHER = 23,
  // A length to trim to whose newest tokens were evicted. needed: the least length that can be had.
  KVQ_STATUS_EVICTED = 24,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum KvqStatus KvqStatus;
#else
typedef int32_t KvqStatus;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Which precisions a cache gives up, in which order.
enum KvqPreset
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Everything at 8 bits.
  KVQ_PRESET_EIGHT_BIT = 0,
  // Keys from 4 bits to 3, values from 4 to 2.
  KVQ_PRESET_FOUR_X = 1,
  // As `FourX`.
  KVQ_PRESET_FIVE_X = 2,
  // Keys may fall to 2 bits.
  KVQ_PRESET_SIX_X = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum KvqPreset KvqPreset;
#else
typedef uint32_t KvqPreset;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What an append does when the memory is used up.
enum KvqWhenFull
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Demotes nothing; then `KVQ_STATUS_FULL`.
  KVQ_WHEN_FULL_ERROR = 0,
  // Demotes the oldest tokens to fewer bits; then `KVQ_STATUS_FULL`.
  KVQ_WHEN_FULL_DEMOTE = 1,
  // Demotes, then drops the oldest tokens after the sinks.
  KVQ_WHEN_FULL_EVICT = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum KvqWhenFull KvqWhenFull;
#else
typedef uint32_t KvqWhenFull;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A cache in memory of the caller.
typedef struct KvqCache KvqCache;

// Shape and policy of a cache. `kvq_preset` fills in the policy; the memory's length is the budget.
typedef struct KvqConfig {
  // Transformer layers.
  uint32_t n_layers;
  // Key/value heads per layer.
  uint32_t n_kv_heads;
  // Values in one key head vector: a multiple of 4 up to 256.
  uint32_t key_head_dim;
  // Values in one value head vector.
  uint32_t value_head_dim;
  // A `KvqPreset`.
  uint32_t preset;
  // First tokens kept at 8 bits for good.
  uint32_t n_sink;
  // Newest tokens kept at 8 bits at the least.
  uint32_t recent_len;
  // Tokens packed and demoted together: 16, 32 or 64.
  uint32_t span_len;
  // A `KvqWhenFull`.
  uint32_t when_full;
  // Tokens before the newest that a query attends to; 0 for all.
  uint32_t window_len;
} KvqConfig;

// What a call that failed needed and what it got; `KvqStatus` says what the figures are, 0 where there are none.
typedef struct KvqError {
  // What the call returned.
  KvqStatus status;
  // What was needed.
  uint64_t needed;
  // What was there.
  uint64_t got;
} KvqError;

// Every byte of a cache's memory by purpose.
typedef struct KvqMemory {
  // Codes of packed tokens.
  size_t code_bytes;
  // Their scales.
  size_t scale_bytes;
  // Their key centers.
  size_t center_bytes;
  // The recent window.
  size_t recent_bytes;
  // The sinks.
  size_t sink_bytes;
  // Counters, tables and the handle.
  size_t header_bytes;
  // Kept free for conversions.
  size_t scratch_bytes;
  // Everything else.
  size_t unused_bytes;
} KvqMemory;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// A status in words, as a string that ends with a zero byte; `"unknown status"` for a number that is none.
const char *kvq_status_name(int32_t status);

// Writes the configuration of a `KvqPreset` that demotes when it is full; its shape is left 0 for the caller to fill
// in.
//
// # Safety
// Unless it is null, `config` must be valid for a write.
KvqStatus kvq_preset(uint32_t preset_number,
                     struct KvqConfig *config);

// The least bytes of memory with which `kvq_init` makes a cache, the handle among them.
//
// # Safety
// Unless they are null, `config` must lead to a configuration, and `bytes` must be valid for a write.
KvqStatus kvq_minimum_bytes(const struct KvqConfig *config,
                            size_t *bytes);

// The tokens that are sure to fit into `memory_bytes`, the handle among them.
//
// # Safety
// Unless they are null, `config` must lead to a configuration, and `tokens` must be valid for a write.
KvqStatus kvq_capacity_tokens(const struct KvqConfig *config,
                              size_t memory_bytes,
                              size_t *tokens);

// Makes an empty cache in `memory`, aligned to 8, and writes its address to `cache`. Nothing has to be
// freed; the memory is the cache's until it is used for something else. Unless `error` is null, what
// went wrong is written to it.
//
// # Safety
// Unless they are null: `config` must lead to a configuration, `memory` to `memory_bytes` bytes that nobody else uses
// while the cache is in use, `cache` and `error` must be valid for a write.
KvqStatus kvq_init(const struct KvqConfig *config,
                   uint8_t *memory,
                   size_t memory_bytes,
                   struct KvqCache **cache,
                   struct KvqError *error);

// Appends `n_tokens` to `layer`. Values, as many as the lengths say: `keys` (n_kv_heads, n_tokens, key_head_dim),
// `values` (n_kv_heads, n_tokens, value_head_dim).
//
// # Safety
// `cache` must come from `kvq_init` and be used by nobody else meanwhile; unless they are null, the arrays must be
// readable for their lengths.
KvqStatus kvq_append(struct KvqCache *cache,
                     size_t layer,
                     size_t n_tokens,
                     const float *keys,
                     size_t keys_len,
                     const float *values,
                     size_t values_len);

// Attention of the newest `n_tokens` of `layer` over what is held, each over its own past. Values: `queries`
// (n_heads, n_tokens, key_head_dim), `out` (n_heads, n_tokens, value_head_dim), where n_heads is a multiple of
// n_kv_heads.
//
// # Safety
// As `kvq_append`; `out` must be writable for its length.
KvqStatus kvq_attend(struct KvqCache *cache,
                     size_t layer,
                     size_t n_tokens,
                     const float *queries,
                     size_t queries_len,
                     float *out,
                     size_t out_len);

// Takes tokens back until `len` are left.
//
// # Safety
// `cache` must come from `kvq_init` and be used by nobody else meanwhile.
KvqStatus kvq_trim(struct KvqCache *cache, size_t len);

// Forgets every token.
//
// # Safety
// As `kvq_trim`.
KvqStatus kvq_clear(struct KvqCache *cache);

// Tokens appended: the position of the next one.
//
// # Safety
// As `kvq_trim`; unless it is null, `len` must be valid for a write.
KvqStatus kvq_len(struct KvqCache *cache, size_t *len);

// Tokens that `layer` can take before it packs a span: a `kvq_trim` that takes back no more than was appended
// within this room leaves attention as it was before, to the bit.
//
// # Safety
// As `kvq_trim`; unless it is null, `tokens` must be valid for a write.
KvqStatus kvq_room_before_packing(struct KvqCache *cache,
                                  size_t layer,
                                  size_t *tokens);

// Where every byte goes; the figures add up to the bytes of the memory.
//
// # Safety
// As `kvq_trim`; unless it is null, `report` must be valid for a write.
KvqStatus kvq_memory(struct KvqCache *cache, struct KvqMemory *report);

// Bytes of a snapshot taken now.
//
// # Safety
// As `kvq_trim`; unless it is null, `bytes` must be valid for a write.
KvqStatus kvq_snapshot_bytes(struct KvqCache *cache, size_t *bytes);

// Writes a snapshot to the start of `out`, and its bytes to `written`.
//
// # Safety
// As `kvq_trim`; unless they are null, `out` must be writable for `out_bytes`, `written` for one value.
KvqStatus kvq_snapshot_into(struct KvqCache *cache,
                            uint8_t *out,
                            size_t out_bytes,
                            size_t *written);

// Replaces what the cache holds by what a snapshot holds, whose shape and policy must be the cache's.
//
// # Safety
// As `kvq_trim`; unless it is null, `snapshot` must be readable for `snapshot_bytes`.
KvqStatus kvq_restore(struct KvqCache *cache,
                      const uint8_t *snapshot,
                      size_t snapshot_bytes);

// What the last call on this cache that failed needed and got; `KVQ_STATUS_OK` if none has. A call with a pointer that
// leads to no cache cannot be told here.
//
// # Safety
// As `kvq_trim`; unless it is null, `error` must be valid for a write.
KvqStatus kvq_error(struct KvqCache *cache,
                    struct KvqError *error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* KVQ_H */
