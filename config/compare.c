/* What differs between two configurations, and what of that a running daemon can take. */
#include <stdlib.h>
#include <string.h>

#include "config/key.h"

static const void *value(const struct key *key, const struct cairn_config *config)
{
	return (const char *)config + key->at;
}

static bool same_list(const struct cairn_config_list *a, const struct cairn_config_list *b)
{
	if (a->n != b->n) return false;
	for (size_t i = 0; i < a->n; i++) {
		if (strcmp(a->items[i], b->items[i]) != 0) return false;
	}
	return true;
}

static bool same_map(const struct cairn_config_map *a, const struct cairn_config_map *b)
{
	if (a->n != b->n) return false;
	for (size_t i = 0; i < a->n; i++) {
		if (strcmp(a->items[i].key, b->items[i].key) != 0 ||
		    strcmp(a->items[i].value, b->items[i].value) != 0) {
			return false;
		}
	}
	return true;
}

static bool same_registries(const struct cairn_config *a, const struct cairn_config *b)
{
	if (a->registries.n_hosts != b->registries.n_hosts) return false;
	for (size_t i = 0; i < a->registries.n_hosts; i++) {
		const struct cairn_config_registry *x = &a->registries.hosts[i];
		const struct cairn_config_registry *y = &b->registries.hosts[i];
		if (strcmp(x->host, y->host) != 0 || x->plain_http != y->plain_http ||
		    strcmp(x->ca, y->ca) != 0 || !same_list(&x->mirrors, &y->mirrors)) {
			return false;
		}
	}
	return true;
}

bool cairn_config_same(const struct key *key, const struct cairn_config *a,
		       const struct cairn_config *b)
{
	const void *at_a = value(key, a), *at_b = value(key, b);
	switch (key->type) {
	case TYPE_BOOL:
	case TYPE_CHOICE:
		return *(const bool *)at_a == *(const bool *)at_b;
	case TYPE_INT:
	case TYPE_SIZE:
	case TYPE_DURATION:
		return memcmp(at_a, at_b, sizeof(uint64_t)) == 0;
	case TYPE_AMOUNT: {
		const struct cairn_config_amount *x = at_a, *y = at_b;
		return x->is_percent == y->is_percent && x->value == y->value;
	}
	case TYPE_LEVEL:
		return *(const enum cairn_log_level *)at_a == *(const enum cairn_log_level *)at_b;
	case TYPE_MAP:
		return same_map(at_a, at_b);
	case TYPE_REGISTRIES:
		return same_registries(a, b);
	case TYPE_LIST:
		return same_list(at_a, at_b);
	default:
		return strcmp(*(char *const *)at_a, *(char *const *)at_b) == 0;
	}
}

size_t cairn_config_diff(const struct cairn_config *running, const struct cairn_config *fresh,
			 cairn_config_change_fn *fn, void *arg)
{
	size_t n = 0;
	for (size_t i = 0; i < cairn_config_n_keys; i++) {
		const struct key *key = &cairn_config_keys[i];
		if (cairn_config_same(key, running, fresh)) continue;
		if (fn != NULL) fn(arg, key->path, key->acts == RELOAD);
		n += key->acts == RELOAD;
	}
	return n;
}

static size_t size_of(enum type type)
{
	switch (type) {
	case TYPE_BOOL:
	case TYPE_CHOICE:
		return sizeof(bool);
	case TYPE_INT:
	case TYPE_SIZE:
	case TYPE_DURATION:
		return sizeof(uint64_t);
	case TYPE_AMOUNT:
		return sizeof(struct cairn_config_amount);
	case TYPE_LEVEL:
		return sizeof(enum cairn_log_level);
	case TYPE_LIST:
		return sizeof(struct cairn_config_list);
	case TYPE_MAP:
		return sizeof(struct cairn_config_map);
	case TYPE_REGISTRIES:
		abort(); /* not by itself: docker_config lies in the same struct */
	default:
		return sizeof(char *);
	}
}

void cairn_config_exchange(struct cairn_config *a, struct cairn_config *b)
{
	unsigned char kept[sizeof(struct cairn_config)];
	for (size_t i = 0; i < cairn_config_n_keys; i++) {
		const struct key *key = &cairn_config_keys[i];
		if (key->acts != RELOAD) continue;
		void *at_a = (char *)a + key->at, *at_b = (char *)b + key->at;
		size_t n = size_of(key->type);
		memcpy(kept, at_a, n);
		memcpy(at_a, at_b, n);
		memcpy(at_b, kept, n);
	}
}
