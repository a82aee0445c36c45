// The codec in C firmware: the calls of the Rust program `selftest` on its small cache, with the host's bytes and the
// host's bits of attention; then a snapshot, a damaged one, and pointers that C gets wrong.
//
// expected.h is written by the host, which made the same calls (firmware-example/replay/examples/c_header.rs).

#include <stdbool.h>

#include "board.h"
#include "expected.h"
#include "kvq.h"

enum { HEAD_DIM = 32, TRY_EVERY = 16, N_TRIED = 5 };

static _Alignas(8) uint8_t memory[KVQ_HANDLE_BYTES + SMALL_BYTES];
static uint8_t snapshot[4096];

// FNV-1a of 64 bits.
static const uint64_t HASH_EMPTY = 0xcbf29ce484222325;

static uint64_t hash(uint64_t state, const void *bytes, size_t n)
{
    const uint8_t *at = bytes;
    while (n--) {
        state = (state ^ *at++) * 0x100000001b3;
    }
    return state;
}

// A multiple of 1/64 from 0 to below 8, by a xorshift of 64 bits.
static float exact(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (float)((*random >> 40) % 512) / 64.0f;
}

static bool is_same(const float *a, const float *b)
{
    return hash(HASH_EMPTY, a, HEAD_DIM * sizeof *a) == hash(HASH_EMPTY, b, HEAD_DIM * sizeof *b);
}

static void write_hex(uint64_t number)
{
    char digits[17] = {0};
    for (int i = 0; i < 16; i++) {
        digits[i] = "0123456789abcdef"[number >> (60 - 4 * i) & 15];
    }
    board_write(digits);
}

// Ends the program unless a call returned what it should.
static void expect(KvqStatus status, KvqStatus expected, const char *call)
{
    if (status != expected) {
        board_write(call);
        board_write(": ");
        board_write(kvq_status_name(status));
        board_write("\n");
        board_exit(1);
    }
}

static void check(bool holds, const char *what)
{
    board_write(holds ? "" : "does not hold: ");
    board_write(what);
    board_write("\n");
    if (!holds) {
        board_exit(1);
    }
}

static KvqCache *init(void)
{
    KvqConfig config;
    KvqCache *cache;
    expect(kvq_preset(KVQ_PRESET_FOUR_X, &config), KVQ_STATUS_OK, "kvq_preset");
    config.n_layers = 1;
    config.n_kv_heads = 1;
    config.key_head_dim = HEAD_DIM;
    config.value_head_dim = HEAD_DIM;
    config.span_len = 16;
    config.recent_len = 0;
    config.when_full = KVQ_WHEN_FULL_EVICT;
    expect(kvq_init(&config, memory, sizeof memory, &cache, NULL), KVQ_STATUS_OK, "kvq_init");
    return cache;
}

static void append(KvqCache *cache, const float *key, const float *value)
{
    expect(kvq_append(cache, 0, 1, key, HEAD_DIM, value, HEAD_DIM), KVQ_STATUS_OK, "kvq_append");
}

static void attend(KvqCache *cache, const float *query, float *out)
{
    expect(kvq_attend(cache, 0, 1, query, HEAD_DIM, out, HEAD_DIM), KVQ_STATUS_OK, "kvq_attend");
}

// Appends and attends `n_tokens` times, now and then with tokens that are taken back.
static uint64_t fill(KvqCache *cache, int n_tokens, uint64_t outputs)
{
    uint64_t random = 4 * 0x9e3779b97f4a7c15 | 1;
    float key[HEAD_DIM], value[HEAD_DIM], query[HEAD_DIM], out[HEAD_DIM];
    for (int token = 1; token <= n_tokens; token++) {
        for (int i = 0; i < HEAD_DIM; i++) {
            key[i] = exact(&random) - 4.0f + (float)(i % 5);
            value[i] = exact(&random) - 4.0f;
        }
        for (int i = 0; i < HEAD_DIM; i++) {
            query[i] = exact(&random) - 4.0f;
        }
        append(cache, key, value);
        attend(cache, query, out);
        outputs = hash(outputs, out, sizeof out);
        size_t room;
        expect(kvq_room_before_packing(cache, 0, &room), KVQ_STATUS_OK, "kvq_room_before_packing");
        if (token % TRY_EVERY == 0 && room > N_TRIED) {
            for (int i = 0; i < N_TRIED; i++) {
                append(cache, value, key);
            }
            expect(kvq_trim(cache, (size_t)token), KVQ_STATUS_OK, "kvq_trim");
        }
    }
    return outputs;
}

static void check_snapshot(KvqCache *cache)
{
    float query[HEAD_DIM] = {1.0f, -2.0f, 0.5f}, before[HEAD_DIM], after[HEAD_DIM];
    size_t n;
    attend(cache, query, before);
    expect(kvq_snapshot_into(cache, snapshot, sizeof snapshot, &n), KVQ_STATUS_OK, "kvq_snapshot_into");
    snapshot[n / 2] ^= 1;
    expect(kvq_restore(cache, snapshot, n), KVQ_STATUS_SNAPSHOT_CHECKSUM, "kvq_restore of damaged bytes");
    attend(cache, query, after);
    check(is_same(before, after), "a damaged snapshot is refused, and the cache goes on");
    snapshot[n / 2] ^= 1;
    expect(kvq_clear(cache), KVQ_STATUS_OK, "kvq_clear");
    expect(kvq_restore(cache, snapshot, n), KVQ_STATUS_OK, "kvq_restore");
    attend(cache, query, after);
    check(is_same(before, after), "a restored snapshot attends to the same bits");
}

static void check_refusals(KvqCache *cache)
{
    float row[HEAD_DIM] = {0};
    KvqError error;
    expect(kvq_attend(NULL, 0, 1, row, HEAD_DIM, row, HEAD_DIM), KVQ_STATUS_NULL, "no cache");
    expect(kvq_attend(cache, 0, 1, row, HEAD_DIM, NULL, HEAD_DIM), KVQ_STATUS_NULL, "no output");
    expect(kvq_attend(cache, 0, 1, row, HEAD_DIM, row, HEAD_DIM), KVQ_STATUS_OVERLAP, "output over the query");
    expect(kvq_append((KvqCache *)snapshot, 0, 1, row, HEAD_DIM, row, HEAD_DIM), KVQ_STATUS_NOT_CACHE,
           "another kind of memory");
    expect(kvq_append(cache, 0, 1, row, HEAD_DIM - 1, row, HEAD_DIM), KVQ_STATUS_LENGTH, "a short key");
    expect(kvq_error(cache, &error), KVQ_STATUS_OK, "kvq_error");
    check(error.status == KVQ_STATUS_LENGTH && error.needed == HEAD_DIM && error.got == HEAD_DIM - 1,
          "wrong arguments are refused with what was needed and got");
}

int main(void)
{
    static const int lengths[] = {7, 40, 90, 160};
    uint64_t cache_hash = HASH_EMPTY, outputs = HASH_EMPTY;
    KvqCache *cache = NULL;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        cache = init();
        outputs = fill(cache, lengths[i], outputs);
        cache_hash = hash(cache_hash, memory + KVQ_HANDLE_BYTES, SMALL_BYTES);
    }
    board_write("cache ");
    write_hex(cache_hash);
    board_write(", attention ");
    write_hex(outputs);
    board_write("\n");
    check(cache_hash == EXPECTED_CACHE, "cache bytes equal the host's");
    check(outputs == EXPECTED_OUTPUTS, "every bit of attention equals the host's");
    check_snapshot(cache);
    check_refusals(cache);
    return 0;
}
