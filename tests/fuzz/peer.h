/* What the fuzz targets of peers share: a swarm alone in this process with a store, and inputs that
 * are frames: type, two bytes of length, payload. */
#ifndef CAIRN_TESTS_FUZZ_PEER_H
#define CAIRN_TESTS_FUZZ_PEER_H

#include <ftw.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "p2p/memory.h"
#include "p2p/swarm.h"
#include "peer.pb-c.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/tmp.h"

#define FRAMES_MAX 64

static struct cairn_memory *mem;
static struct cairn_cache *cache;
static struct cairn_swarm *swarm;
static char dir[256];

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

static void stop_swarm(void)
{
	cairn_swarm_stop(swarm);
	cairn_cache_close(cache);
	cairn_memory_free(mem);
	nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static enum cairn_code make_directory(void *arg, struct cairn_swarm *of,
				      struct cairn_directory **ret, struct cairn_err *err)
{
	(void)arg;
	(void)err;
	*ret = cairn_memory_directory(mem, of->hello.address);
	return CAIRN_OK;
}

static void start_swarm(void)
{
	struct cairn_err err;
	cairn_log_set_level(CAIRN_LOG_ERROR);
	tmp_template(dir, sizeof(dir), "fuzz-peer");
	FUZZ_CHECK(mkdtemp(dir) != NULL);
	mem = cairn_memory_new();
	struct cairn_cache_opts cache_opts = {.dir = dir};
	FUZZ_CHECK(cairn_cache_open(&cache_opts, &cache, &err) == CAIRN_OK);
	struct cairn_swarm_opts opts = {
		.cache = cache,
		.listen = "127.0.0.1:0",
		.decide_ms = 1000,
		.stall_ms = 200,
		.max_grants = 1,
	};
	FUZZ_CHECK(cairn_swarm_start_with(&opts, make_directory, NULL, &swarm, &err) == CAIRN_OK);
	atexit(stop_swarm);
}

struct input {
	const uint8_t *data;
	size_t size;
};

/* The next frame; false: there is none. */
static bool next_frame(struct input *in, struct cairn_frame *ret, const uint8_t **ret_payload)
{
	if (in->size < 3) return false;
	size_t len = (size_t)in->data[1] << 8 | in->data[2];
	ret->type = in->data[0];
	in->data += 3;
	in->size -= 3;
	if (len > in->size) len = in->size;
	ret->len = (uint32_t)len;
	*ret_payload = in->data;
	in->data += len;
	in->size -= len;
	return true;
}

#endif
