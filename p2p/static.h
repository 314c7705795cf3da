/* The directory without a server: a list of peers, each of which is the arbiter of some digests.
 *
 * Every peer on the list is connected to by a link, which pings it each second; it lives while it
 * answers. The arbiter of a digest is chosen among the living by rendezvous hashing, us included
 * (p2p/rendezvous.h), and keeps what it is told in memory (p2p/memory.h). A peer that came is told
 * what we hold at once, and asked a little later, when the others have told it, too. When the
 * arbiter of a digest has changed, whoever holds it, gets it or has its grant tells the new one. */
#ifndef CAIRN_P2P_STATIC_H
#define CAIRN_P2P_STATIC_H

#include <netdb.h>

#include "p2p/conn.h"
#include "p2p/directory.h"
#include "peer.pb-c.h"

#define CAIRN_STATIC_PEERS_MAX 256 /* addresses; further ones are not used, and logged */
#define CAIRN_STATIC_BATCH 1000	   /* digests in one message, at most */

struct cairn_static_opts {
	struct cairn_tls_files *tls;   /* NULL: plain text */
	const struct cairn_hello *own; /* as it is in cairn_conn_dial */
	const char *const *peers;      /* host:port; copied */
	size_t n_peers;
	/* getaddrinfo and freeaddrinfo, or a test's; NULL: those. */
	int (*resolve)(const char *host, const char *port, const struct addrinfo *hints,
		       struct addrinfo **ret);
	void (*free_resolved)(struct addrinfo *list);
	int64_t resolve_ms; /* about how often names are looked up; 0: 10 s */
};

/* Errors: INVALID_ARGUMENT (a peer that is no host:port), INTERNAL (no thread). */
CAIRN_CHECKED enum cairn_code cairn_static_new(const struct cairn_static_opts *opts,
					       struct cairn_directory **ret, struct cairn_err *err);

/* Other peers; dir is one of ours. The list is copied. What it says holds once each new name was
 * looked up, so that nobody on both lists is dropped for a moment. Threads: one at a time. Errors,
 * with nothing changed: those of cairn_static_new. */
CAIRN_CHECKED enum cairn_code cairn_static_set_peers(struct cairn_directory *dir,
						     const char *const *peers, size_t n_peers,
						     struct cairn_err *err);

/* An answer and all that it points to: there is nothing to free. */
struct cairn_static_reply {
	Cairn__Peer__V1__DirectoryResponse msg;
	Cairn__Peer__V1__Grant grant;
	Cairn__Peer__V1__Found found[CAIRN_FIND_MAX];
	Cairn__Peer__V1__Found *found_ptrs[CAIRN_FIND_MAX];
	struct cairn_answer answer;
	char message[256];
};

/* A peer's question to us, the arbiter, and the answer for it: send ret->msg as
 * CAIRN_FRAME_DIRECTORY_RESPONSE. peer: the address in its Hello (cairn_conn_address). req is
 * checked here. *ret is in the caller's hands, and must not be moved while it is used.
 * Threads: any; does not block. Not after close. */
void cairn_static_answer(struct cairn_directory *dir, const char *peer,
			 const Cairn__Peer__V1__DirectoryRequest *req,
			 struct cairn_static_reply *ret);

#endif
