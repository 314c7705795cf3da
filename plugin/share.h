/* Which blobs may leave this node for others: p2p.share, by the repositories that they came from.
 *
 * A blob's repositories are learnt from the names of preheats, and from the labels that containerd
 * puts on what it pulls (containerd.io/distribution.source.<host>), read of the manifest or index;
 * what that needs came from there, too. A blob may leave if one of its repositories is allowed, and
 * none is denied. What is not known yet stays.
 *
 * Labels are read in the background: soon after a pull has committed a manifest, since containerd
 * writes them just then; and of images that a listing shows, for what was pulled before our start.
 *
 * Threads: internally locked. */
#ifndef CAIRN_PLUGIN_SHARE_H
#define CAIRN_PLUGIN_SHARE_H

#include "plugin/plugin.h"

#define CAIRN_SHARE_KNOWN_MAX (1u << 18) /* blobs; more are not learnt, and so stay */
#define CAIRN_SHARE_QUEUE_MAX 4096	 /* manifests to be asked for; a listing finds the rest */

/* "registry/repository" against patterns as fnmatch(3) has them, without flags: '*' stands for any
 * text, with slashes. */
bool cairn_share_matches(const char *const *patterns, size_t n, const char *repository);

/* The digest, but not what it needs, came from that repository ("registry/repository"). */
void cairn_share_learn(struct cairn_share *share, const struct cairn_digest *digest,
		       const char *repository);

/* A pull in that namespace of containerd (owner_len bytes) has committed a manifest or an index.
 * Does not block. */
void cairn_share_committed(struct cairn_share *share, const char *owner, size_t owner_len,
			   const struct cairn_digest *digest);

#endif
