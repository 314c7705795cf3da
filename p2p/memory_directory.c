/* A directory whose nodes share one table in one process: for tests of what uses a directory. It
 * has no network that fails, and no time: a node lives until it is closed or forgotten. */
#include <stdlib.h>
#include <string.h>

#include "p2p/memory.h"

struct memory_directory {
	struct cairn_directory dir;
	struct cairn_memory *mem;
	char address[CAIRN_ADDRESS_MAX];
};

static struct memory_directory *of(struct cairn_directory *dir)
{
	return (struct memory_directory *)dir;
}

static struct cairn_memory_question question(struct cairn_directory *dir,
					     const struct cairn_digest *digest)
{
	return (struct cairn_memory_question){.node = of(dir)->address, .digest = digest};
}

static enum cairn_code ask(struct cairn_directory *dir, const struct cairn_digest *digest,
			   bool join, bool may_grant, int64_t timeout_ms, struct cairn_answer *ret,
			   struct cairn_err *err)
{
	(void)timeout_ms;
	(void)err;
	struct cairn_memory_question q = question(dir, digest);
	cairn_memory_ask(of(dir)->mem, &q, join, may_grant, ret);
	return CAIRN_OK;
}

static enum cairn_code take(struct cairn_directory *dir, const struct cairn_digest *digest,
			    uint64_t version, int64_t timeout_ms, struct cairn_grant *ret,
			    struct cairn_err *err)
{
	(void)timeout_ms;
	(void)err;
	struct cairn_memory_question q = question(dir, digest);
	cairn_memory_take(of(dir)->mem, &q, version, ret);
	return CAIRN_OK;
}

static enum cairn_code keep(struct cairn_directory *dir, const struct cairn_digest *digest,
			    uint64_t version, uint64_t bytes, int64_t timeout_ms,
			    struct cairn_grant *ret, struct cairn_err *err)
{
	(void)version;
	(void)timeout_ms;
	(void)err;
	struct cairn_memory_question q = question(dir, digest);
	cairn_memory_keep(of(dir)->mem, &q, bytes, ret);
	return CAIRN_OK;
}

static void leave(struct cairn_directory *dir, const struct cairn_digest *digest)
{
	struct cairn_memory_question q = question(dir, digest);
	cairn_memory_leave(of(dir)->mem, &q);
}

static void announce(struct cairn_directory *dir, const struct cairn_digest *digests, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct cairn_memory_question q = question(dir, &digests[i]);
		cairn_memory_announce(of(dir)->mem, &q);
	}
}

static void withdraw(struct cairn_directory *dir, const struct cairn_digest *digests, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct cairn_memory_question q = question(dir, &digests[i]);
		cairn_memory_withdraw(of(dir)->mem, &q);
	}
}

static size_t members(struct cairn_directory *dir, struct cairn_node_id *ret, size_t max)
{
	return cairn_memory_members(of(dir)->mem, ret, max);
}

static void health(struct cairn_directory *dir, char ret[static 256])
{
	(void)dir;
	ret[0] = '\0';
}

static bool flush(struct cairn_directory *dir, int64_t timeout_ms)
{
	(void)dir;
	(void)timeout_ms;
	return true;
}

static void close_directory(struct cairn_directory *dir, int64_t timeout_ms)
{
	(void)timeout_ms;
	cairn_memory_forget(of(dir)->mem, of(dir)->address);
	free(of(dir));
}

static bool alive(struct cairn_directory *dir, const struct cairn_digest *digest)
{
	(void)dir, (void)digest;
	return true;
}

static const struct cairn_directory_ops ops = {
	.ask = ask,
	.take = take,
	.keep = keep,
	.leave = leave,
	.announce = announce,
	.withdraw = withdraw,
	.members = members,
	.alive = alive,
	.health = health,
	.flush = flush,
	.close = close_directory,
};

struct cairn_directory *cairn_memory_directory(struct cairn_memory *mem, const char *address)
{
	struct memory_directory *m = calloc(1, sizeof(*m));
	if (m == NULL) abort();
	m->dir.ops = &ops;
	m->mem = mem;
	memccpy(m->address, address, '\0', sizeof(m->address) - 1);
	(void)cairn_memory_hear(mem, address, 0);
	return &m->dir;
}
