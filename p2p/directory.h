/* Who has which blob, and who may fetch it from the registry.
 *
 * One interface; implementations: memory.c (one table; what the arbiter of the static directory
 * keeps, and what a test of others uses as its directory), static.c (a list of peers, each the
 * arbiter of some digests), etcd.c. tests/support/directory_suite.h is what all of them pass.
 *
 * A node is a member: it is found by others while it lives, and all it has said vanishes some
 * seconds after it died. Of a digest it may say that it holds it (announce), or that it is getting
 * it and will share what it has (join, in ask). The grant of a digest is one node's leave to fetch
 * it from the registry: queued until its first byte came, running from then on, and kept alive by
 * bytes. It is an optimisation, not a lock. Every change of a grant changes its version; whoever
 * sees the same version for too long takes it over by naming that version.
 *
 * A directory that cannot be reached answers UNAVAILABLE or DEADLINE_EXCEEDED, and recovers by
 * itself: what was announced is said again. What was asked may have been done all the same, a grant
 * given: leave ends it.
 *
 * Threads: any; the calls that take timeout_ms block so long at most, the others do not block. */
#ifndef CAIRN_P2P_DIRECTORY_H
#define CAIRN_P2P_DIRECTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "base/own.h"

#define CAIRN_FIND_MAX 16	/* peers in one answer */
#define CAIRN_HOLDERS_MAX 32	/* records of one blob that are kept; later ones are not needed */
#define CAIRN_ADDRESS_MAX 300	/* bytes of host:port, with its end */
#define CAIRN_MEMBERS_MAX 20000 /* of a cluster */

/* A node, named by what its peers dial: host:port, unique in the cluster. */
struct cairn_node_id {
	char address[CAIRN_ADDRESS_MAX];
};

struct cairn_found {
	struct cairn_node_id node;
	bool whole; /* it holds it; else it is getting it */
};

enum cairn_grant_state {
	CAIRN_GRANT_FREE,    /* nobody has it */
	CAIRN_GRANT_QUEUED,  /* nothing came yet */
	CAIRN_GRANT_RUNNING, /* bytes come */
};

struct cairn_grant {
	enum cairn_grant_state state;
	bool ours;
	struct cairn_node_id node; /* whose it is, unless FREE */
	uint64_t version;	   /* 0 if FREE */
	uint64_t bytes;		   /* that came so far, as far as was told */
};

struct cairn_answer {
	struct cairn_found
		found[CAIRN_FIND_MAX]; /* never us; holders first; a random choice of each */
	size_t n;
	struct cairn_grant grant;
};

struct cairn_directory {
	const struct cairn_directory_ops *ops;
};

struct cairn_directory_ops {
	/* Who has the digest? join: we are getting it, and may be found from now on (bounded in
	 * number a digest, like holders; not remembered if enough are known). may_grant: if nobody
	 * holds it and its grant is free, it is ours. */
	enum cairn_code (*ask)(struct cairn_directory *dir, const struct cairn_digest *digest,
			       bool join, bool may_grant, int64_t timeout_ms,
			       struct cairn_answer *ret, struct cairn_err *err);

	/* Take the grant over from whoever had it at that version (0: it was free): *ret says how
	 * it is now, ours or not. */
	enum cairn_code (*take)(struct cairn_directory *dir, const struct cairn_digest *digest,
				uint64_t version, int64_t timeout_ms, struct cairn_grant *ret,
				struct cairn_err *err);

	/* Our grant has got so many bytes; from the first on it is running. *ret as for take: it
	 * may have been taken from us. */
	enum cairn_code (*keep)(struct cairn_directory *dir, const struct cairn_digest *digest,
				uint64_t version, uint64_t bytes, int64_t timeout_ms,
				struct cairn_grant *ret, struct cairn_err *err);

	/* Our grant, if we have it, is over, and so is our joining. Said in the background. */
	void (*leave)(struct cairn_directory *dir, const struct cairn_digest *digest);

	/* We hold these, or do not any more. Said in the background, in batches, and again whenever
	 * the directory has forgotten us. The caller's grant and joining of an announced digest are
	 * over. withdraw: nobody is to come to us for it. */
	void (*announce)(struct cairn_directory *dir, const struct cairn_digest *digests, size_t n);
	void (*withdraw)(struct cairn_directory *dir, const struct cairn_digest *digests, size_t n);

	/* Fills at most max of the members that live, us included; returns how many there are. */
	size_t (*members)(struct cairn_directory *dir, struct cairn_node_id *ret, size_t max);

	/* Whoever is to answer for the digest was heard of within the last few seconds: an answer
	 * that does not come at once is on its way. */
	bool (*alive)(struct cairn_directory *dir, const struct cairn_digest *digest);

	/* In words, for people: "" if all is well, else what does not work. */
	void (*health)(struct cairn_directory *dir, char ret[static 256]);

	/* Everything that was announced was said, as far as is known. For tests and for a shutdown:
	 * wait for it, so long at most. */
	bool (*flush)(struct cairn_directory *dir, int64_t timeout_ms);

	/* We go: withdraw all that we said, as far as that takes no longer than timeout_ms; free.
	 */
	void (*close)(struct cairn_directory *dir, int64_t timeout_ms);
};

#endif
