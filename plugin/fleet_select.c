#include "plugin/fleet_select.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AMOUNT_MAX 1000000

/* ---- what is written --------------------------------------------------------------------------*/

/* Digits, at most AMOUNT_MAX; SIZE_MAX-like -1: it is no number. *ret_end is behind it. */
static int64_t parse_digits(const char *text, const char **ret_end)
{
	int64_t n = 0;
	size_t len = strspn(text, "0123456789");
	*ret_end = text + len;
	if (len == 0) return -1;
	for (size_t i = 0; i < len; i++) {
		n = n * 10 + (text[i] - '0');
		if (n > AMOUNT_MAX) return AMOUNT_MAX + 1;
	}
	return n;
}

static bool is_amount(const char *text)
{
	const char *end;
	return parse_digits(text, &end) >= 0 && (strcmp(end, "") == 0 || strcmp(end, "%") == 0);
}

enum cairn_code cairn_fleet_amount_parse(const char *text, const char *what, int64_t min,
					 struct cairn_fleet_amount *ret, struct cairn_err *err)
{
	const char *end;
	int64_t n = parse_digits(text, &end);
	bool is_percent = strcmp(end, "%") == 0;
	if (n < min || n > (is_percent ? 100 : AMOUNT_MAX) || (!is_percent && *end != '\0')) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s is \"%.40s\"; allowed: %lld to %d nodes, such as 5, or "
				     "%lld%% to 100%% of them, such as 30%%",
				     what, text, (long long)min, AMOUNT_MAX, (long long)min);
	}
	*ret = (struct cairn_fleet_amount){is_percent, n};
	return CAIRN_OK;
}

size_t cairn_fleet_amount_of(const struct cairn_fleet_amount *amount, size_t total, bool up)
{
	size_t n = (size_t)amount->n;
	if (amount->is_percent) n = (total * n + (up ? 99 : 0)) / 100;
	return n;
}

static size_t count_items(const char *text)
{
	size_t n = 1;
	for (; *text != '\0'; text++) n += *text == ',';
	return n;
}

static enum cairn_code parse_items(struct cairn_fleet_rule *rule, struct cairn_err *err)
{
	size_t with_value = 0;
	rule->items = calloc(count_items(rule->text), sizeof(char *));
	if (rule->items == NULL) abort();
	for (char *at = rule->text, *item; (item = strsep(&at, ",")) != NULL;) {
		const char *equals = strchr(item, '=');
		if (item[0] == '\0' || item[0] == '=') {
			return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
					     "nodes: entry %zu is empty; allowed: names or "
					     "label=value, separated by commas",
					     rule->n_items + 1);
		}
		with_value += equals != NULL;
		rule->items[rule->n_items++] = item;
	}
	if (with_value != 0 && with_value != rule->n_items) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "nodes: names and label=value do not go together");
	}
	rule->kind = with_value != 0 ? CAIRN_FLEET_LABELS : CAIRN_FLEET_NAMES;
	return CAIRN_OK;
}

enum cairn_code cairn_fleet_rule_parse(const char *text, struct cairn_fleet_rule *ret,
				       struct cairn_err *err)
{
	*ret = (struct cairn_fleet_rule){.kind = CAIRN_FLEET_ALL};
	if (text[0] == '\0' || strlen(text) > CAIRN_FLEET_RULE_MAX) {
		return cairn_err_set(
			err, CAIRN_INVALID_ARGUMENT,
			"nodes has %zu bytes; allowed: 1 to %d: all, a number, a share "
			"such as 30%%, names, or label=value",
			strlen(text), CAIRN_FLEET_RULE_MAX);
	}
	if (strcmp(text, "all") == 0) return CAIRN_OK;
	if (is_amount(text)) {
		ret->kind = CAIRN_FLEET_AMOUNT;
		return cairn_fleet_amount_parse(text, "nodes", 1, &ret->amount, err);
	}
	ret->text = strdup(text);
	if (ret->text == NULL) abort();
	enum cairn_code rc = parse_items(ret, err);
	if (rc) cairn_fleet_rule_fini(ret);
	return rc;
}

void cairn_fleet_rule_fini(struct cairn_fleet_rule *rule)
{
	free(rule->items);
	free(rule->text);
	*rule = (struct cairn_fleet_rule){.kind = CAIRN_FLEET_ALL};
}

/* ---- whom it means ----------------------------------------------------------------------------*/

void cairn_fleet_candidate_fini(struct cairn_fleet_candidate *c)
{
	for (size_t k = 0; k < c->n_labels; k++) free(c->labels[k]);
	free(c->labels);
}

void cairn_fleet_candidates_free(struct cairn_fleet_candidate *list, size_t n)
{
	for (size_t i = 0; i < n; i++) cairn_fleet_candidate_fini(&list[i]);
	free(list);
}

/* Of two with one name, the one that answers comes first: it is the name's. */
static int by_name(const void *a, const void *b)
{
	const struct cairn_fleet_candidate *x = a, *y = b;
	int order = strcmp(x->name, y->name);
	if (order == 0) order = (int)y->answers - (int)x->answers;
	return order != 0 ? order : strcmp(x->address, y->address);
}

void cairn_fleet_sort(struct cairn_fleet_candidate *list, size_t n)
{
	qsort(list, n, sizeof(list[0]), by_name);
	for (size_t i = n; i-- > 1;) {
		if (strcmp(list[i].name, list[i - 1].name) != 0) continue;
		snprintf(list[i].name, sizeof(list[i].name), "%.100s (%.100s)", list[i - 1].name,
			 list[i].address);
	}
}

bool cairn_fleet_has_labels(const struct cairn_fleet_candidate *c,
			    const struct cairn_fleet_rule *rule)
{
	for (size_t i = 0; i < rule->n_items; i++) {
		bool found = false;
		for (size_t k = 0; k < c->n_labels && !found; k++) {
			found = strcmp(c->labels[k], rule->items[i]) == 0;
		}
		if (!found) return false;
	}
	return true;
}

static enum cairn_code select_names(const struct cairn_fleet_rule *rule,
				    const struct cairn_fleet_candidate *list, size_t n,
				    bool *chosen, struct cairn_err *err)
{
	for (size_t k = 0; k < rule->n_items; k++) {
		bool found = false;
		for (size_t i = 0; i < n; i++) {
			if (strcmp(list[i].name, rule->items[k]) != 0 &&
			    strcmp(list[i].address, rule->items[k]) != 0) {
				continue;
			}
			chosen[i] = found = true;
		}
		if (found) continue;
		return cairn_err_set(err, CAIRN_NOT_FOUND,
				     "nodes: there is no node \"%.100s\" in this cluster (cairnctl "
				     "peers lists them)",
				     rule->items[k]);
	}
	return CAIRN_OK;
}

static enum cairn_code select_labels(const struct cairn_fleet_rule *rule,
				     const struct cairn_fleet_candidate *list, size_t n,
				     bool *chosen, struct cairn_err *err)
{
	size_t found = 0;
	for (size_t i = 0; i < n; i++) {
		bool has = list[i].answers && cairn_fleet_has_labels(&list[i], rule);
		found += has;
		chosen[i] = has || (list[i].member && !list[i].answers);
	}
	if (found > 0) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_NOT_FOUND,
			     "nodes: no node that answers has the label %.100s%s", rule->items[0],
			     rule->n_items > 1 ? " and the others" : "");
}

static enum cairn_code select_amount(const struct cairn_fleet_rule *rule,
				     const struct cairn_fleet_candidate *list, size_t n,
				     bool *chosen, struct cairn_err *err)
{
	size_t alive = 0;
	for (size_t i = 0; i < n; i++) alive += list[i].answers;
	size_t want = cairn_fleet_amount_of(&rule->amount, alive, true);
	if (alive == 0) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "nodes: none answers");
	}
	if (want > alive) {
		return cairn_err_set(err, CAIRN_NOT_FOUND,
				     "nodes: %zu are asked for, and %zu answer", want, alive);
	}
	for (size_t i = 0; i < n && want > 0; i++) {
		chosen[i] = list[i].answers;
		want -= chosen[i];
	}
	return CAIRN_OK;
}

enum cairn_code cairn_fleet_select(const struct cairn_fleet_rule *rule,
				   const struct cairn_fleet_candidate *list, size_t n, bool *chosen,
				   struct cairn_err *err)
{
	memset(chosen, 0, n * sizeof(chosen[0]));
	switch (rule->kind) {
	case CAIRN_FLEET_AMOUNT:
		return select_amount(rule, list, n, chosen, err);
	case CAIRN_FLEET_NAMES:
		return select_names(rule, list, n, chosen, err);
	case CAIRN_FLEET_LABELS:
		return select_labels(rule, list, n, chosen, err);
	case CAIRN_FLEET_ALL:
	default:
		for (size_t i = 0; i < n; i++) chosen[i] = true;
		return CAIRN_OK;
	}
}
