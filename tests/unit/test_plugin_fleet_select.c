/* Whom an admin's words mean: plugin/fleet_select.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "plugin/fleet_select.h"

static struct cairn_err err;

/* ---- what is written ---- */

static void parse__takes_each_form(void **state)
{
	(void)state;
	struct cairn_fleet_rule rule;
	assert_int_equal(cairn_fleet_rule_parse("all", &rule, &err), CAIRN_OK);
	assert_int_equal(rule.kind, CAIRN_FLEET_ALL);
	cairn_fleet_rule_fini(&rule);
	assert_int_equal(cairn_fleet_rule_parse("7", &rule, &err), CAIRN_OK);
	assert_int_equal(rule.kind, CAIRN_FLEET_AMOUNT);
	assert_int_equal(rule.amount.n, 7);
	assert_int_equal(cairn_fleet_rule_parse("100%", &rule, &err), CAIRN_OK);
	assert_true(rule.amount.is_percent);
	assert_int_equal(cairn_fleet_rule_parse("node-1,10.0.0.1:7400", &rule, &err), CAIRN_OK);
	assert_int_equal(rule.kind, CAIRN_FLEET_NAMES);
	assert_int_equal(rule.n_items, 2);
	assert_string_equal(rule.items[1], "10.0.0.1:7400");
	cairn_fleet_rule_fini(&rule);
	assert_int_equal(cairn_fleet_rule_parse("rack=r7,disk=", &rule, &err), CAIRN_OK);
	assert_int_equal(rule.kind, CAIRN_FLEET_LABELS);
	cairn_fleet_rule_fini(&rule);
}

static void parse__says_what_is_wrong(void **state)
{
	(void)state;
	static const char *const bad[][2] = {
		{"", "allowed: 1 to"}, {"0", "1 to 1000000 nodes"},
		{"0%", "1% to 100%"},  {"101%", "\"101%\""},
		{"1000%", "100%"},     {"99999999999999999999", "1000000"},
		{"a,,b", "entry 2"},   {"a,", "entry 2"},
		{"=x", "entry 1"},     {"a,rack=r7", "do not go together"},
	};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		struct cairn_fleet_rule rule;
		assert_int_equal(cairn_fleet_rule_parse(bad[i][0], &rule, &err),
				 CAIRN_INVALID_ARGUMENT);
		if (strstr(err.msg, bad[i][1]) == NULL) fail_msg("%s: %s", bad[i][0], err.msg);
	}
	struct cairn_fleet_amount amount;
	static const char *const bad_batches[] = {"0", "0%", "-1", "5x", "%", "101%", " 5", ""};
	for (size_t i = 0; i < CAIRN_LEN(bad_batches); i++) {
		assert_int_equal(
			cairn_fleet_amount_parse(bad_batches[i], "batch", 1, &amount, &err),
			CAIRN_INVALID_ARGUMENT);
		assert_non_null(strstr(err.msg, "batch is "));
	}
	assert_int_equal(cairn_fleet_amount_parse("0", "max_failures", 0, &amount, &err), CAIRN_OK);
}

static void amount__is_rounded_to_the_safe_side(void **state)
{
	(void)state;
	const struct cairn_fleet_amount third = {.is_percent = true, .n = 30};
	assert_int_equal(cairn_fleet_amount_of(&third, 5, true), 2);
	assert_int_equal(cairn_fleet_amount_of(&third, 5, false), 1);
	assert_int_equal(cairn_fleet_amount_of(&third, 10, true), 3);
	assert_int_equal(cairn_fleet_amount_of(&third, 0, true), 0);
	assert_int_equal(cairn_fleet_amount_of(&(struct cairn_fleet_amount){false, 4}, 2, true), 4);
}

/* ---- whom it means ---- */

/* In order: b answers; c is down; d answers, as rack=r7, disk=ssd; e is gone; f answers, as
 * rack=r7. */
static struct cairn_fleet_candidate *cluster(void)
{
	static const char *const labels[] = {"disk=ssd", "rack=r7"};
	static const struct {
		const char *name, *address;
		bool answers, member;
		size_t labels; /* from the end of the list */
	} nodes[] = {{"f", "10.0.0.9:1", true, true, 1},
		     {"c", "10.0.0.2:1", false, true, 0},
		     {"e", "10.0.0.3:1", false, false, 0},
		     {"b", "10.0.0.4:1", true, true, 0},
		     {"d", "10.0.0.5:1", true, true, 2}};
	struct cairn_fleet_candidate *list = calloc(CAIRN_LEN(nodes), sizeof(*list));
	for (size_t i = 0; i < CAIRN_LEN(nodes); i++) {
		struct cairn_fleet_candidate *c = &list[i];
		snprintf(c->name, sizeof(c->name), "%s", nodes[i].name);
		snprintf(c->address, sizeof(c->address), "%s", nodes[i].address);
		c->answers = nodes[i].answers;
		c->member = nodes[i].member;
		c->labels = calloc(3, sizeof(char *));
		for (; c->n_labels < nodes[i].labels; c->n_labels++) {
			c->labels[c->n_labels] =
				strdup(labels[CAIRN_LEN(labels) - nodes[i].labels + c->n_labels]);
		}
	}
	cairn_fleet_sort(list, CAIRN_LEN(nodes));
	return list;
}

static void select__means(void **state)
{
	(void)state;
	static const struct {
		const char *rule, *names; /* those that are chosen; NULL: NOT_FOUND ... */
		const char *says;	  /* ... with that */
	} cases[] = {
		{"all", "bcdef", NULL},
		{"1", "b", NULL},
		{"3", "bdf", NULL},
		{"4", NULL, "4 are asked for, and 3 answer"},
		{"1%", "b", NULL},
		{"50%", "bd", NULL},
		{"100%", "bdf", NULL},
		{"f,c,e", "cef", NULL},
		{"b,b,10.0.0.4:1", "b", NULL},
		{"b,x", NULL, "no node \"x\""},
		{"rack=r7", "cdf", NULL}, /* c's labels are not known */
		{"rack=r7,disk=ssd", "cd", NULL},
		{"rack=r8", NULL, "label rack=r8"},
		{"rack=r7,disk=hdd", NULL, "and the others"},
		{"rack=", NULL, "rack="},
	};
	for (size_t i = 0; i < CAIRN_LEN(cases); i++) {
		struct cairn_fleet_candidate *list = cluster();
		struct cairn_fleet_rule rule;
		bool chosen[5];
		char names[6] = "";
		assert_int_equal(cairn_fleet_rule_parse(cases[i].rule, &rule, &err), CAIRN_OK);
		enum cairn_code rc = cairn_fleet_select(&rule, list, 5, chosen, &err);
		assert_int_equal(rc, cases[i].names != NULL ? CAIRN_OK : CAIRN_NOT_FOUND);
		for (size_t k = 0; k < 5; k++) {
			if (chosen[k]) strcat(names, list[k].name);
		}
		if (cases[i].names != NULL) assert_string_equal(names, cases[i].names);
		if (rc) assert_non_null(strstr(err.msg, cases[i].says));
		cairn_fleet_rule_fini(&rule);
		cairn_fleet_candidates_free(list, 5);
	}
}

/* Two nodes with one name are two nodes; the name is that of the one that answers. */
static void sort__tells_namesakes_apart(void **state)
{
	(void)state;
	struct cairn_fleet_candidate *list = calloc(3, sizeof(*list));
	static const char *const addresses[] = {"1:1", "2:1", "3:1"};
	for (size_t i = 0; i < 3; i++) {
		strcpy(list[i].name, "same");
		strcpy(list[i].address, addresses[i]);
		list[i].answers = i == 2;
	}
	cairn_fleet_sort(list, 3);
	assert_string_equal(list[0].name, "same");
	assert_string_equal(list[0].address, "3:1");
	assert_string_equal(list[1].name, "same (1:1)");
	assert_string_equal(list[2].name, "same (2:1)");
	cairn_fleet_candidates_free(list, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse__takes_each_form),
		cmocka_unit_test(parse__says_what_is_wrong),
		cmocka_unit_test(amount__is_rounded_to_the_safe_side),
		cmocka_unit_test(select__means),
		cmocka_unit_test(sort__tells_namesakes_apart),
	};
	return cmocka_run_group_tests_name("plugin/fleet_select", tests, NULL, NULL);
}
