/* The directory in etcd v3 (3.3 or newer; Debian 12 has 3.4): any number of nodes, no arbiter.
 *
 * Keys, all below a prefix, all under the lease of the node that wrote them, so that etcd forgets
 * them CAIRN_ETCD_TTL_S after the node's last sign of life:
 *
 *   n/ADDRESS         the node lives
 *   h/DIGEST/SLOT     value ADDRESS: it holds the blob; SLOT is 00 to 31
 *   j/DIGEST/SLOT     value ADDRESS: it is getting the blob, and shares what it has
 *   g/DIGEST          value "q 0 ADDRESS" or "r BYTES ADDRESS": the grant, queued or running; its
 *                     version is the key's mod_revision
 *
 * A blob has CAIRN_HOLDERS_MAX slots of each kind and a slot is taken by a transaction that wants
 * it free, so however many nodes announce a blob at once, its records are bounded, and an answer is
 * small. A node that finds the slots taken writes nothing; all nodes look again slowly, and take
 * what has become free.
 *
 * Whatever is not under a lease, or cannot be read, is rubbish of somebody else's: it is ignored,
 * and written over where it is in the way. */
#ifndef CAIRN_P2P_ETCD_H
#define CAIRN_P2P_ETCD_H

#include "p2p/directory.h"
#include "rpc/rpc.h"

#define CAIRN_ETCD_TTL_S 10
#define CAIRN_ETCD_ENDPOINTS_MAX 16
#define CAIRN_ETCD_PREFIX_MAX 200 /* bytes, with its end */

struct cairn_etcd_opts {
	struct cairn_rpc *rpc;
	const char *address; /* ours */
	/* "https://host:port", "http://host:port", or "host:port", which means http. */
	const char *const *endpoints;
	size_t n_endpoints;
	const char *prefix; /* NULL or "": "/cairn/"; a "/" at its end is added if it is missing */
	/* Paths of PEM files, for https; NULL or "": the system's CAs; no client certificate. They
	 * are read again when a connection has to be made anew. */
	const char *ca, *cert, *key;
	int64_t ttl_s;	  /* of the lease; 0: CAIRN_ETCD_TTL_S */
	int64_t sweep_ms; /* in which every announced blob is looked after once; 0: ten minutes */
};

/* Copies what it needs. Does not wait for etcd. Errors: INVALID_ARGUMENT: endpoints, address,
 * prefix, files. */
CAIRN_CHECKED enum cairn_code cairn_etcd_new(const struct cairn_etcd_opts *opts,
					     struct cairn_directory **ret, struct cairn_err *err);

#endif
