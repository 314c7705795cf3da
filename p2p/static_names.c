#include "p2p/static_names.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "p2p/address.h"

struct name {
	struct cairn_address address;
	struct cairn_node_id *found; /* owned */
	size_t n;
	bool numbers, tried;
	char err[200]; /* "": it was looked up well, the last time */
};

/* Shared with the thread; the last of the two frees it. */
struct names {
	pthread_mutex_t mu;
	pthread_cond_t stopped;
	int refs; /* guarded by mu, and so is the rest of it but for what never changes */
	bool stop;
	int (*resolve)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
	void (*free_resolved)(struct addrinfo *);
	int64_t every_ms;
	size_t n;
	struct name all[];
};

static void unref(struct names *names)
{
	pthread_mutex_lock(&names->mu);
	int left = --names->refs;
	pthread_mutex_unlock(&names->mu);
	if (left > 0) return;
	for (size_t i = 0; i < names->n; i++) free(names->all[i].found);
	pthread_cond_destroy(&names->stopped);
	pthread_mutex_destroy(&names->mu);
	free(names);
}

static bool known(const struct cairn_node_id *ids, size_t n, const char *address)
{
	for (size_t i = 0; i < n; i++) {
		if (strcmp(ids[i].address, address) == 0) return true;
	}
	return false;
}

static size_t collect(const struct addrinfo *list, struct cairn_node_id *ret)
{
	size_t n = 0;
	for (; list != NULL && n < NAMES_ADDRESSES_MAX; list = list->ai_next) {
		if (list->ai_family != AF_INET && list->ai_family != AF_INET6) continue;
		cairn_address_format(list->ai_addr, ret[n].address);
		if (!known(ret, n, ret[n].address)) n++;
	}
	return n;
}

/* Blocks, for names. */
static void look_up(struct names *names, struct name *name, int flags)
{
	struct cairn_node_id *found = calloc(NAMES_ADDRESSES_MAX, sizeof(*found));
	struct addrinfo *list = NULL;
	const struct addrinfo hints = {.ai_flags = flags | AI_NUMERICSERV,
				       .ai_family = AF_UNSPEC,
				       .ai_socktype = SOCK_STREAM};
	if (found == NULL) abort();
	int rc = names->resolve(name->address.host, name->address.port, &hints, &list);
	size_t n = rc == 0 ? collect(list, found) : 0;
	if (rc == 0) names->free_resolved(list);
	pthread_mutex_lock(&names->mu);
	name->tried = true;
	if (n > 0) {
		free(name->found);
		name->found = cairn_steal(&found);
		name->n = n;
		name->err[0] = '\0';
	} else {
		(void)snprintf(name->err, sizeof(name->err), "look up %.100s: %s",
			       name->address.host, rc == 0 ? "no address" : gai_strerror(rc));
	}
	pthread_mutex_unlock(&names->mu);
	free(found);
}

/* About every_ms, so that the nodes of a cluster do not ask all at once. false: stopped. */
static bool pause_between(struct names *names, uint64_t *random)
{
	struct timespec until;
	*random = *random * UINT64_C(6364136223846793005) + 1;
	int64_t ms = names->every_ms * (int64_t)(80 + (*random >> 33) % 41) / 100;
	(void)clock_gettime(CLOCK_MONOTONIC, &until);
	int64_t ns = until.tv_nsec + ms * CAIRN_NS_PER_MS;
	until.tv_sec += (time_t)(ns / CAIRN_NS_PER_S);
	until.tv_nsec = (long)(ns % CAIRN_NS_PER_S);
	pthread_mutex_lock(&names->mu);
	int rc = 0;
	while (!names->stop && rc == 0) {
		rc = pthread_cond_timedwait(&names->stopped, &names->mu, &until);
	}
	bool stop = names->stop;
	pthread_mutex_unlock(&names->mu);
	return !stop;
}

static void *names_main(void *arg)
{
	struct names *names = arg;
	uint64_t random = (uint64_t)cairn_real_ns(&cairn_clock_system);
	do {
		for (size_t i = 0; i < names->n; i++) {
			if (!names->all[i].numbers) look_up(names, &names->all[i], 0);
		}
	} while (pause_between(names, &random));
	unref(names);
	return NULL;
}

static enum cairn_code fill(struct names *names, const struct cairn_static_opts *opts,
			    struct cairn_err *err)
{
	struct addrinfo *list;
	const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
	for (size_t i = 0; i < opts->n_peers; i++) {
		struct name *name = &names->all[i];
		if (cairn_address_parse(opts->peers[i], false, &name->address, err) != CAIRN_OK) {
			return cairn_err_wrap(err, "peer %zu", i + 1);
		}
		names->n = i + 1;
		int rc = getaddrinfo(name->address.host, name->address.port, &hints, &list);
		if (rc != 0) continue;
		freeaddrinfo(list);
		name->numbers = true;
		look_up(names, name, AI_NUMERICHOST);
	}
	return CAIRN_OK;
}

static enum cairn_code start_thread(struct names *names, struct cairn_err *err)
{
	pthread_t thread;
	pthread_attr_t attr;
	names->refs = 2;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	int rc = pthread_create(&thread, &attr, names_main, names);
	pthread_attr_destroy(&attr);
	if (rc == 0) return CAIRN_OK;
	names->refs = 1;
	return cairn_err_sys(err, rc, "start the thread that looks up peers");
}

enum cairn_code names_start(const struct cairn_static_opts *opts, struct names **ret,
			    struct cairn_err *err)
{
	struct names *names = calloc(1, sizeof(*names) + opts->n_peers * sizeof(names->all[0]));
	if (names == NULL) abort();
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&names->mu, NULL);
	pthread_cond_init(&names->stopped, &attr);
	pthread_condattr_destroy(&attr);
	names->resolve = opts->resolve != NULL ? opts->resolve : getaddrinfo;
	names->free_resolved = opts->resolve != NULL ? opts->free_resolved : freeaddrinfo;
	names->every_ms = opts->resolve_ms > 0 ? opts->resolve_ms : NAMES_RESOLVE_MS;
	names->refs = 1;
	enum cairn_code rc = fill(names, opts, err);
	bool any = false;
	for (size_t i = 0; i < names->n; i++) any = any || !names->all[i].numbers;
	if (rc == CAIRN_OK && any) rc = start_thread(names, err);
	if (rc == CAIRN_OK) {
		*ret = names;
	} else {
		unref(names);
	}
	return rc;
}

void names_stop(struct names *names)
{
	if (names == NULL) return;
	pthread_mutex_lock(&names->mu);
	names->stop = true;
	pthread_cond_signal(&names->stopped);
	pthread_mutex_unlock(&names->mu);
	unref(names);
}

/* mu of both held. */
static void inherit(struct name *name, const struct names *from)
{
	for (size_t i = 0; i < from->n && name->n == 0; i++) {
		const struct name *old = &from->all[i];
		if (old->n == 0 || strcmp(old->address.host, name->address.host) != 0 ||
		    strcmp(old->address.port, name->address.port) != 0) {
			continue;
		}
		free(name->found);
		name->found = calloc(NAMES_ADDRESSES_MAX, sizeof(name->found[0]));
		if (name->found == NULL) abort();
		memcpy(name->found, old->found, old->n * sizeof(old->found[0]));
		name->n = old->n;
	}
}

void names_inherit(struct names *names, struct names *from)
{
	pthread_mutex_lock(&names->mu);
	pthread_mutex_lock(&from->mu);
	for (size_t i = 0; i < names->n; i++) inherit(&names->all[i], from);
	pthread_mutex_unlock(&from->mu);
	pthread_mutex_unlock(&names->mu);
}

size_t names_get(struct names *names, struct cairn_node_id *ret, size_t max, bool *ret_tried,
		 char err[static 256])
{
	size_t n = 0, more = 0;
	*ret_tried = true;
	err[0] = '\0';
	pthread_mutex_lock(&names->mu);
	for (size_t i = 0; i < names->n; i++) {
		const struct name *name = &names->all[i];
		*ret_tried = *ret_tried && name->tried;
		if (err[0] == '\0') memccpy(err, name->err, '\0', sizeof(name->err));
		for (size_t k = 0; k < name->n; k++) {
			if (known(ret, n, name->found[k].address)) continue;
			if (n < max) {
				ret[n++] = name->found[k];
			} else {
				more++;
			}
		}
	}
	pthread_mutex_unlock(&names->mu);
	return n + more;
}
