/* Which nodes: what an admin writes, and whom it means. Pure functions. */
#ifndef CAIRN_PLUGIN_FLEET_SELECT_H
#define CAIRN_PLUGIN_FLEET_SELECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/own.h"
#include "oci/oci.h"
#include "p2p/p2p.h"

#define CAIRN_FLEET_RULE_MAX 65536 /* bytes */
#define CAIRN_FLEET_NAME_MAX 254   /* bytes of a node's name, with its end */
#define CAIRN_FLEET_LABELS_MAX 64  /* of one node, that are looked at ... */
#define CAIRN_FLEET_LABEL_MAX 1024 /* ... and bytes of name and value */

/* A number of nodes, or a share of them. */
struct cairn_fleet_amount {
	bool is_percent;
	int64_t n;
};

/* "5", "30%": from min on, and up to 100%. what: for messages. Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_fleet_amount_parse(const char *text, const char *what,
						       int64_t min, struct cairn_fleet_amount *ret,
						       struct cairn_err *err);
/* Of total; a share is rounded up, or down. */
size_t cairn_fleet_amount_of(const struct cairn_fleet_amount *amount, size_t total, bool up);

struct cairn_fleet_rule {
	enum { CAIRN_FLEET_ALL, CAIRN_FLEET_AMOUNT, CAIRN_FLEET_NAMES, CAIRN_FLEET_LABELS } kind;
	struct cairn_fleet_amount amount;
	char *text;   /* what items point into */
	char **items; /* names, or label=value */
	size_t n_items;
};

/* all | N | P% | name,name | label=value,label=value. Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_fleet_rule_parse(const char *text, struct cairn_fleet_rule *ret,
						     struct cairn_err *err);
void cairn_fleet_rule_fini(struct cairn_fleet_rule *rule);

struct cairn_fleet_candidate {
	char name[CAIRN_FLEET_NAME_MAX]; /* as it says, or as its certificate does; else its address
					  */
	char address[CAIRN_ADDRESS_MAX];
	char platform[CAIRN_PLATFORM_STR];
	bool answers;  /* it was asked who it is, and said so */
	bool member;   /* the directory has it; else it is gone */
	char **labels; /* label=value; owned */
	size_t n_labels;
	char error[512]; /* why it does not answer */
};

void cairn_fleet_candidate_fini(struct cairn_fleet_candidate *c);
void cairn_fleet_candidates_free(struct cairn_fleet_candidate *list, size_t n);

/* By name, then by address; a name that two have becomes name (address) for the second. */
void cairn_fleet_sort(struct cairn_fleet_candidate *list, size_t n);

/* Has it all labels of the rule? */
bool cairn_fleet_has_labels(const struct cairn_fleet_candidate *c,
			    const struct cairn_fleet_rule *rule);

/* chosen[i]: list[i], which is sorted, is meant. A number or a share is of those that answer, the
 * first by name; names and `all` also mean those that are down; labels those that have them, and
 * members that do not answer, as theirs are not known.
 * Errors: NOT_FOUND (a name that no node has, labels that none has, more than there are). */
CAIRN_CHECKED enum cairn_code cairn_fleet_select(const struct cairn_fleet_rule *rule,
						 const struct cairn_fleet_candidate *list, size_t n,
						 bool *chosen, struct cairn_err *err);

#endif
