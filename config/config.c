/* The keys, as one table, and what walks it. */
#include "config/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/check.h"
#include "config/key.h"
#include "config/tree.h"
#include "config/value.h"

#define AT(member) offsetof(struct cairn_config, member)
#define MS_S UINT64_C(1000)
#define MS_H (3600 * MS_S)
#define ANY_SIZE "a size such as 200GiB"
#define ANY_AMOUNT "a share from 0% to 100%, or a size such as 200GiB"

const struct key cairn_config_keys[] = {
	{"version", TYPE_INT, "1", "1", 1, 1, AT(version), RESTART},
	{"state_dir", TYPE_PATH, "/var/lib/cairn", NULL, 1, 3072, AT(state_dir), RESTART},
	/* sockaddr_un has room for 107 bytes */
	{"listen", TYPE_PATH, "/run/cairn/cairn.sock", NULL, 1, 107, AT(listen), RESTART},
	{"drain", TYPE_DURATION, "10s", "0s to 10m", 0, 600 * MS_S, AT(drain), RESTART},
	{"node.name", TYPE_STRING, "", "a name", 0, 253, AT(node.name), RESTART},
	{"node.labels", TYPE_MAP, NULL, NULL, 0, 0, AT(node.labels), RESTART},
	{"containerd.address", TYPE_PATH_OR_NONE, "/run/containerd/containerd.sock", NULL, 0, 107,
	 AT(containerd.address), RESTART},
	{"containerd.prefill", TYPE_BOOL, "true", NULL, 0, 0, AT(containerd.prefill), RESTART},
	{"containerd.swarm_wait", TYPE_BOOL, "true", NULL, 0, 0, AT(containerd.swarm_wait),
	 RESTART},
	{"containerd.sharing", TYPE_CHOICE, "node", "node|namespace", 0, 0,
	 AT(containerd.sharing_by_namespace), RESTART},
	{"gc.interval", TYPE_DURATION, "15m", "1s to 24h", MS_S, 24 * MS_H, AT(gc.interval),
	 RELOAD},
	{"gc.keep_storage", TYPE_DURATION, "24h", "0s to 87600h", 0, 87600 * MS_H,
	 AT(gc.keep_storage), RELOAD},
	{"gc.high_watermark", TYPE_AMOUNT, "80%", ANY_AMOUNT, 0, 0, AT(gc.high_watermark), RELOAD},
	{"gc.low_watermark", TYPE_AMOUNT, "70%", ANY_AMOUNT, 0, 0, AT(gc.low_watermark), RELOAD},
	{"gc.min_free", TYPE_AMOUNT, "10%", ANY_AMOUNT, 0, 0, AT(gc.min_free), RELOAD},
	{"gc.keep_versions", TYPE_INT, "2", "0 to 1000", 0, 1000, AT(gc.keep_versions), RELOAD},
	{"gc.keep_versions_for", TYPE_DURATION, "168h", "0s to 87600h", 0, 87600 * MS_H,
	 AT(gc.keep_versions_for), RELOAD},
	{"gc.log", TYPE_PATH_OR_NONE, "", NULL, 0, 3072, AT(gc.log), RELOAD},
	{"p2p.listen", TYPE_HOST_OR_NONE, "", NULL, 0, 300, AT(p2p.listen), RESTART},
	{"p2p.advertise", TYPE_HOST_OR_NONE, "", NULL, 0, 300, AT(p2p.advertise), RESTART},
	{"p2p.tls.ca", TYPE_PATH_OR_NONE, "", NULL, 0, 3072, AT(p2p.tls.ca), RESTART},
	{"p2p.tls.cert", TYPE_PATH_OR_NONE, "", NULL, 0, 3072, AT(p2p.tls.cert), RESTART},
	{"p2p.tls.key", TYPE_PATH_OR_NONE, "", NULL, 0, 3072, AT(p2p.tls.key), RESTART},
	{"p2p.admins", TYPE_LIST, NULL, NULL, 0, 0, AT(p2p.admins), RESTART},
	{"p2p.fleet", TYPE_CHOICE, "members", "members|off", 0, 0, AT(p2p.fleet_off), RESTART},
	{"p2p.directory", TYPE_CHOICE, "static", "static|etcd", 0, 0, AT(p2p.directory_etcd),
	 RESTART},
	{"p2p.peers", TYPE_LIST, NULL, NULL, 0, 0, AT(p2p.peers), RELOAD},
	{"p2p.etcd.endpoints", TYPE_LIST, NULL, NULL, 0, 0, AT(p2p.etcd.endpoints), RESTART},
	{"p2p.etcd.prefix", TYPE_PATH, "/cairn/", NULL, 1, 1024, AT(p2p.etcd.prefix), RESTART},
	{"p2p.etcd.ca", TYPE_PATH_OR_NONE, "", NULL, 0, 3072, AT(p2p.etcd.ca), RESTART},
	{"p2p.etcd.cert", TYPE_PATH_OR_NONE, "", NULL, 0, 3072, AT(p2p.etcd.cert), RESTART},
	{"p2p.etcd.key", TYPE_PATH_OR_NONE, "", NULL, 0, 3072, AT(p2p.etcd.key), RESTART},
	{"p2p.share.allow", TYPE_LIST, "*", NULL, 0, 0, AT(p2p.share.allow), RESTART},
	{"p2p.share.deny", TYPE_LIST, NULL, NULL, 0, 0, AT(p2p.share.deny), RESTART},
	{"p2p.upload_limit", TYPE_SIZE, "0", ANY_SIZE, 0, UINT64_MAX, AT(p2p.upload_limit), RELOAD},
	{"p2p.download_limit", TYPE_SIZE, "0", ANY_SIZE, 0, UINT64_MAX, AT(p2p.download_limit),
	 RELOAD},
	{"p2p.decide", TYPE_DURATION, "20ms", "1ms to 10s", 1, 10 * MS_S, AT(p2p.decide), RELOAD},
	{"p2p.stall", TYPE_DURATION, "5s", "100ms to 60s", 100, 60 * MS_S, AT(p2p.stall), RELOAD},
	{"p2p.min_rate", TYPE_SIZE, "1MiB", ANY_SIZE, 0, UINT64_MAX, AT(p2p.min_rate), RELOAD},
	{"p2p.max_grants", TYPE_INT, "3", "1 to 1000", 1, 1000, AT(p2p.max_grants), RELOAD},
	{"registries.docker_config", TYPE_PATH_OR_NONE, "", NULL, 0, 3072,
	 AT(registries.docker_config), RESTART},
	{"registries.hosts", TYPE_REGISTRIES, NULL, NULL, 0, 0, AT(registries), RESTART},
	{"http.listen", TYPE_HOST_OR_NONE, "127.0.0.1:7480", NULL, 0, 300, AT(http.listen),
	 RESTART},
	{"log.level", TYPE_LEVEL, "info", "debug, info, warn or error", 0, 0, AT(log_level),
	 RELOAD},
};
const size_t cairn_config_n_keys = CAIRN_LEN(cairn_config_keys);

struct reader {
	const char *name;
	struct cairn_err *err;
	struct cairn_config *config;
	bool min_free_set; /* in the file, that is */
};

static void *member(const struct key *key, struct cairn_config *config)
{
	return (char *)config + key->at;
}

static char *must_copy(const char *s)
{
	char *copy = strdup(s);
	if (copy == NULL) abort();
	return copy;
}

static void *must_calloc(size_t n, size_t size)
{
	void *p = calloc(n, size);
	if (p == NULL) abort();
	return p;
}

/* ---- scalars ----------------------------------------------------------------------------------*/

static const char *allowed_text(const struct key *key)
{
	switch (key->type) {
	case TYPE_BOOL:
		return "true or false";
	case TYPE_PATH:
		return "an absolute path, not too long";
	case TYPE_PATH_OR_NONE:
		return "an absolute path, not too long, or \"\"";
	case TYPE_HOST_OR_NONE:
		return "host:port with a port of 0 to 65535, or \"\"";
	default:
		return key->allowed;
	}
}

static bool set_string(const struct key *key, const char *text, void *at)
{
	size_t n = strlen(text);
	if (n < key->min || n > key->max) return false;
	bool path = key->type == TYPE_PATH || key->type == TYPE_PATH_OR_NONE;
	if (path && n > 0 && text[0] != '/') return false;
	bool host = key->type == TYPE_HOST_OR_NONE && n > 0;
	if (host && !cairn_value_is_host_port(text)) return false;
	free(*(char **)at);
	*(char **)at = must_copy(text);
	return true;
}

static bool set_number(const struct key *key, const char *text, void *at)
{
	uint64_t v = 0;
	int64_t ms = 0;
	bool ok = key->type == TYPE_INT	   ? cairn_value_int(text, &v)
		  : key->type == TYPE_SIZE ? cairn_value_size(text, &v)
					   : cairn_value_duration(text, &ms);
	if (key->type == TYPE_DURATION) v = (uint64_t)ms;
	if (!ok || v < key->min || v > key->max) return false;
	memcpy(at, &v, sizeof(v)); /* int64_t or uint64_t; the table's ranges fit either */
	return true;
}

static bool set_choice(const struct key *key, const char *text, bool *at)
{
	const char *bar = strchr(key->allowed, '|');
	size_t n = (size_t)(bar - key->allowed);
	bool second = strcmp(text, bar + 1) == 0;
	if (!second && (strlen(text) != n || strncmp(text, key->allowed, n) != 0)) return false;
	*at = second;
	return true;
}

static bool set_bool(const char *text, bool *at)
{
	bool yes = strcmp(text, "true") == 0;
	if (!yes && strcmp(text, "false") != 0) return false;
	*at = yes;
	return true;
}

static bool set_scalar(const struct key *key, const char *text, struct cairn_config *config)
{
	void *at = member(key, config);
	switch (key->type) {
	case TYPE_BOOL:
		return set_bool(text, at);
	case TYPE_CHOICE:
		return set_choice(key, text, at);
	case TYPE_LEVEL:
		return cairn_log_parse_level(text, at);
	case TYPE_AMOUNT:
		return cairn_value_amount(text, at);
	case TYPE_INT:
	case TYPE_SIZE:
	case TYPE_DURATION:
		return set_number(key, text, at);
	default:
		return set_string(key, text, at);
	}
}

/* A plain empty value, ~ or null: YAML for "nothing", which no key takes. */
static bool is_null(const struct cairn_node *node)
{
	return node->kind == CAIRN_NODE_SCALAR && node->plain &&
	       (node->text[0] == '\0' || strcmp(node->text, "~") == 0 ||
		strcmp(node->text, "null") == 0);
}

static enum cairn_code bad_value(struct reader *r, const struct cairn_node *node, const char *path,
				 const char *allowed)
{
	char got[80];
	snprintf(got, sizeof(got), node->kind == CAIRN_NODE_SCALAR ? "\"%.60s\"" : "%s",
		 node->kind == CAIRN_NODE_SCALAR ? node->text
		 : node->kind == CAIRN_NODE_LIST ? "a list"
						 : "a map");
	return cairn_err_set(r->err, CAIRN_INVALID_ARGUMENT, "%s:%zu: %.200s is %s; allowed: %s",
			     r->name, node->line, path, is_null(node) ? "empty" : got, allowed);
}

static enum cairn_code read_scalar(struct reader *r, const struct key *key,
				   const struct cairn_node *node)
{
	/* Numbers and booleans in quotes are strings to YAML. */
	bool needs_plain = key->type == TYPE_BOOL || key->type == TYPE_INT;
	if (node->kind != CAIRN_NODE_SCALAR || is_null(node) || (needs_plain && !node->plain) ||
	    !set_scalar(key, node->text, r->config)) {
		return bad_value(r, node, key->path, allowed_text(key));
	}
	if (strcmp(key->path, "gc.min_free") == 0) r->min_free_set = true;
	return CAIRN_OK;
}

/* ---- lists and maps ---------------------------------------------------------------------------*/

static size_t count(const struct cairn_node *node)
{
	size_t n = 0;
	for (const struct cairn_node *c = node->first; c != NULL; c = c->next) n++;
	return n;
}

static void list_fini(struct cairn_config_list *list)
{
	for (size_t i = 0; i < list->n; i++) free(list->items[i]);
	free(list->items);
	*list = (struct cairn_config_list){0};
}

static enum cairn_code read_list(struct reader *r, const char *path, const struct cairn_node *node,
				 struct cairn_config_list *ret)
{
	if (node->kind != CAIRN_NODE_LIST || count(node) > CAIRN_CONFIG_LIST_MAX) {
		return bad_value(r, node, path, "a list of at most 1024 strings");
	}
	list_fini(ret);
	ret->items = must_calloc(count(node) + 1, sizeof(ret->items[0]));
	for (const struct cairn_node *c = node->first; c != NULL; c = c->next) {
		if (c->kind != CAIRN_NODE_SCALAR || is_null(c) || c->text[0] == '\0') {
			return bad_value(r, c, path, "a list of strings, none of them empty");
		}
		ret->items[ret->n++] = must_copy(c->text);
	}
	return CAIRN_OK;
}

static enum cairn_code read_map(struct reader *r, const char *path, const struct cairn_node *node,
				struct cairn_config_map *ret)
{
	if (node->kind != CAIRN_NODE_MAP || count(node) > CAIRN_CONFIG_LIST_MAX) {
		return bad_value(r, node, path, "a map of at most 1024 strings");
	}
	ret->items = must_calloc(count(node) + 1, sizeof(ret->items[0]));
	for (const struct cairn_node *c = node->first; c != NULL; c = c->next) {
		if (c->kind != CAIRN_NODE_SCALAR || is_null(c)) {
			return bad_value(r, c, path, "a map of strings");
		}
		ret->items[ret->n++] =
			(struct cairn_config_pair){must_copy(c->key), must_copy(c->text)};
	}
	return CAIRN_OK;
}

static enum cairn_code unknown_key(struct reader *r, const struct cairn_node *node,
				   const char *path)
{
	return cairn_err_set(r->err, CAIRN_INVALID_ARGUMENT,
			     "%s:%zu: unknown key %.200s (cairn.yaml(5) lists them)", r->name,
			     node->line, path);
}

/* One entry of registries.hosts. */
static enum cairn_code read_registry(struct reader *r, const struct cairn_node *node,
				     struct cairn_config_registry *ret)
{
	static const char path[] = "registries.hosts";
	static const char allowed[] =
		"a map with host, and perhaps plain_http (true or false), ca (an absolute path) "
		"and mirrors (a list of URLs)";
	ret->host = must_copy("");
	ret->ca = must_copy("");
	if (node->kind != CAIRN_NODE_MAP) return bad_value(r, node, path, allowed);
	for (const struct cairn_node *c = node->first; c != NULL; c = c->next) {
		bool text = c->kind == CAIRN_NODE_SCALAR && !is_null(c);
		if (strcmp(c->key, "mirrors") == 0) {
			enum cairn_code rc =
				read_list(r, "registries.hosts.mirrors", c, &ret->mirrors);
			if (rc) return rc;
		} else if (strcmp(c->key, "plain_http") == 0) {
			if (!text || !c->plain || !set_bool(c->text, &ret->plain_http)) {
				return bad_value(r, c, "registries.hosts.plain_http",
						 "true or false");
			}
		} else if (strcmp(c->key, "host") == 0 || strcmp(c->key, "ca") == 0) {
			bool ca = c->key[0] == 'c';
			if (!text || (ca && c->text[0] != '\0' && c->text[0] != '/')) {
				return bad_value(r, c, path, allowed);
			}
			char **at = ca ? &ret->ca : &ret->host;
			free(*at);
			*at = must_copy(c->text);
		} else {
			char full[200];
			snprintf(full, sizeof(full), "%s.%.100s", path, c->key);
			return unknown_key(r, c, full);
		}
	}
	if (ret->host[0] == '\0') return bad_value(r, node, path, allowed);
	return CAIRN_OK;
}

static enum cairn_code read_registries(struct reader *r, const struct cairn_node *node)
{
	struct cairn_config *config = r->config;
	if (node->kind != CAIRN_NODE_LIST || count(node) > CAIRN_CONFIG_LIST_MAX) {
		return bad_value(r, node, "registries.hosts", "a list of at most 1024 maps");
	}
	config->registries.hosts =
		must_calloc(count(node) + 1, sizeof(config->registries.hosts[0]));
	for (const struct cairn_node *c = node->first; c != NULL; c = c->next) {
		enum cairn_code rc = read_registry(
			r, c, &config->registries.hosts[config->registries.n_hosts++]);
		if (rc) return rc;
	}
	return CAIRN_OK;
}

/* ---- the walk ---------------------------------------------------------------------------------*/

static enum cairn_code read_value(struct reader *r, const struct key *key,
				  const struct cairn_node *node)
{
	void *at = member(key, r->config);
	switch (key->type) {
	case TYPE_LIST:
		return read_list(r, key->path, node, at);
	case TYPE_MAP:
		return read_map(r, key->path, node, at);
	case TYPE_REGISTRIES:
		return read_registries(r, node);
	default:
		return read_scalar(r, key, node);
	}
}

static const struct key *find_key(const char *path)
{
	for (size_t i = 0; i < cairn_config_n_keys; i++) {
		if (strcmp(cairn_config_keys[i].path, path) == 0) return &cairn_config_keys[i];
	}
	return NULL;
}

/* Do keys exist below path? */
static bool is_section(const char *path)
{
	size_t n = strlen(path);
	for (size_t i = 0; i < cairn_config_n_keys; i++) {
		const char *key = cairn_config_keys[i].path;
		if (strncmp(key, path, n) == 0 && key[n] == '.') return true;
	}
	return false;
}

/* Recurses as deep as the tree, which is bounded. */
static enum cairn_code read_section(struct reader *r, const struct cairn_node *section,
				    const char *prefix)
{
	for (const struct cairn_node *c = section->first; c != NULL; c = c->next) {
		char path[200];
		int n = snprintf(path, sizeof(path), "%s%s%s", prefix, prefix[0] ? "." : "",
				 c->key);
		const struct key *key = n < (int)sizeof(path) ? find_key(path) : NULL;
		enum cairn_code rc;
		if (key != NULL) {
			rc = read_value(r, key, c);
		} else if (n < (int)sizeof(path) && is_section(path)) {
			rc = c->kind == CAIRN_NODE_MAP ? read_section(r, c, path)
						       : bad_value(r, c, path, "a map of keys");
		} else {
			rc = unknown_key(r, c, path);
		}
		if (rc) return rc;
	}
	return CAIRN_OK;
}

static void set_defaults(struct cairn_config *config)
{
	for (size_t i = 0; i < cairn_config_n_keys; i++) {
		const struct key *key = &cairn_config_keys[i];
		if (key->def == NULL) continue;
		if (key->type == TYPE_LIST) {
			struct cairn_config_list *list = member(key, config);
			list->items = must_calloc(1, sizeof(list->items[0]));
			list->items[list->n++] = must_copy(key->def);
		} else if (!set_scalar(key, key->def, config)) {
			abort(); /* the table is wrong */
		}
	}
}

enum cairn_code cairn_config_parse(const char *name, const char *text, size_t len,
				   struct cairn_config *ret, struct cairn_err *err)
{
	if (len > CAIRN_CONFIG_BYTES_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s: %zu bytes are too many for a configuration; at most %u "
				     "are allowed",
				     name, len, CAIRN_CONFIG_BYTES_MAX);
	}
	struct cairn_node *root = NULL;
	enum cairn_code rc = cairn_tree_parse(name, text, len, &root, err);
	if (rc) return rc;
	struct cairn_config config = {0};
	struct reader r = {.name = name, .err = err, .config = &config};
	set_defaults(&config);
	if (root != NULL && !is_null(root)) {
		rc = root->kind == CAIRN_NODE_MAP
			     ? read_section(&r, root, "")
			     : bad_value(&r, root, "the file", "a map of keys");
	}
	if (rc == CAIRN_OK) rc = cairn_config_check(name, &config, r.min_free_set, err);
	cairn_tree_free(root);
	if (rc) {
		cairn_config_fini(&config);
		return rc;
	}
	*ret = config;
	return CAIRN_OK;
}

void cairn_config_fini(struct cairn_config *config)
{
	for (size_t i = 0; i < cairn_config_n_keys; i++) {
		void *at = member(&cairn_config_keys[i], config);
		switch (cairn_config_keys[i].type) {
		case TYPE_STRING:
		case TYPE_PATH:
		case TYPE_PATH_OR_NONE:
		case TYPE_HOST_OR_NONE:
			free(*(char **)at);
			break;
		case TYPE_LIST:
			list_fini(at);
			break;
		default:
			break;
		}
	}
	for (size_t i = 0; i < config->node.labels.n; i++) {
		free(config->node.labels.items[i].key);
		free(config->node.labels.items[i].value);
	}
	free(config->node.labels.items);
	for (size_t i = 0; i < config->registries.n_hosts; i++) {
		free(config->registries.hosts[i].host);
		free(config->registries.hosts[i].ca);
		list_fini(&config->registries.hosts[i].mirrors);
	}
	free(config->registries.hosts);
	*config = (struct cairn_config){0};
}

/* ---- the file ---------------------------------------------------------------------------------*/

static enum cairn_code read_file(const char *path, char **ret, size_t *ret_len,
				 struct cairn_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0 && errno == ENOENT) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "%s: no such file", path);
	}
	if (fd < 0) return cairn_err_sys(err, errno, "open %s", path);
	size_t room = CAIRN_CONFIG_BYTES_MAX + 1,
	       len = 0; /* one more, to see that it is too long */
	char *text = must_calloc(1, room);
	enum cairn_code rc = CAIRN_OK;
	for (ssize_t n = 1; rc == CAIRN_OK && n > 0 && len < room;) {
		n = read(fd, text + len, room - len);
		if (n > 0) len += (size_t)n;
		if (n < 0 && errno != EINTR) rc = cairn_err_sys(err, errno, "read %s", path);
		if (n < 0) n = 1;
	}
	close(fd);
	if (rc) {
		free(text);
		return rc;
	}
	*ret = text;
	*ret_len = len;
	return CAIRN_OK;
}

enum cairn_code cairn_config_load(const char *path, struct cairn_config *ret, struct cairn_err *err)
{
	char *text = NULL;
	size_t len = 0;
	enum cairn_code rc = read_file(path, &text, &len, err);
	if (rc) return rc;
	rc = cairn_config_parse(path, text, len, ret, err);
	free(text);
	return rc;
}
