/* The daemon's configuration: YAML into one struct. The keys are those of cairn.yaml(5).
 *
 * Every key has a default, so an empty file is a working single node. An unknown key, a wrong type,
 * a value out of range, a key given twice, or YAML that is none of a plain configuration's business
 * (aliases, tags, several documents) is an error that names file, line, key and what is allowed. */
#ifndef CAIRN_CONFIG_CONFIG_H
#define CAIRN_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"

#define CAIRN_CONFIG_BYTES_MAX (1u << 20) /* of the file */
#define CAIRN_CONFIG_LIST_MAX 1024	  /* entries of one list or map */
#define CAIRN_CONFIG_TEXT_MAX 4096	  /* bytes of one value */

/* A share of the file system, or a number of bytes. */
struct cairn_config_amount {
	bool is_percent;
	uint64_t value;
};

struct cairn_config_list {
	char **items;
	size_t n;
};

struct cairn_config_pair {
	char *key, *value;
};

struct cairn_config_map {
	struct cairn_config_pair *items;
	size_t n;
};

struct cairn_config_registry {
	char *host;
	bool plain_http;
	char *ca;
	struct cairn_config_list mirrors;
};

/* Times are milliseconds, rates bytes per second. Strings are never NULL. */
struct cairn_config {
	int64_t version;
	char *state_dir;
	char *listen;
	int64_t drain;
	struct {
		char *name; /* "": the host's */
		struct cairn_config_map labels;
	} node;
	struct {
		char *address;
		bool prefill;
		bool swarm_wait;
		bool sharing_by_namespace;
	} containerd;
	struct {
		int64_t interval, keep_storage, keep_versions, keep_versions_for;
		struct cairn_config_amount high_watermark, low_watermark, min_free;
		char *log;
	} gc;
	struct {
		char *listen, *advertise;
		struct {
			char *ca, *cert, *key;
		} tls;
		struct cairn_config_list admins;
		bool fleet_off;	     /* no other node may coordinate work here */
		bool directory_etcd; /* otherwise static */
		struct cairn_config_list peers;
		struct {
			struct cairn_config_list endpoints;
			char *prefix, *ca, *cert, *key;
		} etcd;
		struct {
			struct cairn_config_list allow, deny;
		} share;
		uint64_t upload_limit, download_limit, min_rate;
		int64_t decide, stall, max_grants;
	} p2p;
	struct {
		char *docker_config;
		struct cairn_config_registry *hosts;
		size_t n_hosts;
	} registries;
	struct {
		char *listen;
	} http;
	enum cairn_log_level log_level;
};

/* Parse len bytes; name is for messages. Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_config_parse(const char *name, const char *text, size_t len,
						 struct cairn_config *ret, struct cairn_err *err);

/* Errors: INVALID_ARGUMENT, NOT_FOUND (no such file), INTERNAL. */
CAIRN_CHECKED enum cairn_code cairn_config_load(const char *path, struct cairn_config *ret,
						struct cairn_err *err);

void cairn_config_fini(struct cairn_config *config);

/* One key that differs; reloads: a running daemon can take it, otherwise it needs a restart. */
typedef void cairn_config_change_fn(void *arg, const char *key, bool reloads);

/* Tell fn (NULL: nobody) of each key that differs and has an effect, in the table's order. Returns
 * how many of them a running daemon can take. */
size_t cairn_config_diff(const struct cairn_config *running, const struct cairn_config *fresh,
			 cairn_config_change_fn *fn, void *arg);

/* Exchange the values of the keys that a running daemon can take: all others stay where they are,
 * so what borrows their strings may go on. */
void cairn_config_exchange(struct cairn_config *a, struct cairn_config *b);

/* Is the host of host:port one that only this machine reaches: 127.0.0.0/8, ::1 or localhost? */
bool cairn_config_is_loopback(const char *address);

#endif
