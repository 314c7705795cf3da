/* The simulation of tests/sim, small: a blob that nobody has comes to all who want it, in little
 * more than the time that the links ask for, and from the registry about once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "sim/sim.h"
#include "support/random.h"

#define MIB (UINT64_C(1) << 20)

static struct sim_opts cluster(uint32_t nodes, uint64_t mib)
{
	struct sim_opts o;
	sim_defaults(&o);
	o.nodes = nodes;
	o.image_bytes = mib * MIB;
	o.seed = test_seed();
	return o;
}

/* Median and slowest are times divided by the ideal. */
static void run(const struct sim_opts *o, double registry, double median, double slowest)
{
	struct sim_result r;
	sim_run(o, &r);
	assert_true(r.n_times > 0);
	double middle = r.times_ms[r.n_times / 2] / r.ideal_ms;
	double last = r.times_ms[r.n_times - 1] / r.ideal_ms;
	double bytes = r.registry_bytes / (double)o->image_bytes;
	print_message("registry %.3f, median %.3f, slowest %.3f\n", bytes, middle, last);
	assert_int_equal(r.unfinished, 0);
	assert_true(bytes <= registry);
	assert_true(middle <= median);
	assert_true(last <= slowest);
	free(r.times_ms);
}

static void ten_nodes(void **state)
{
	(void)state;
	struct sim_opts o = cluster(10, 200);
	run(&o, 1.05, 1.15, 1.5);
}

static void two_nodes(void **state)
{
	(void)state;
	struct sim_opts o = cluster(2, 100);
	run(&o, 1.05, 1.05, 1.05);
}

/* Short ones, so that it is quick under sanitizers; the fewer pieces, the more the way counts. */
static void two_hundred_nodes(void **state)
{
	(void)state;
	struct sim_opts o = cluster(200, 64);
	o.tick_ms = 10;
	run(&o, 1.05, 2.5, 2.8);
}

static void layers(void **state)
{
	(void)state;
	struct sim_opts o = cluster(10, 100);
	o.blobs = 5;
	run(&o, 1.05, 2.0, 2.2);
}

static void granted_one_dies(void **state)
{
	(void)state;
	struct sim_opts o = cluster(30, 64);
	o.die_at = 0.5;
	run(&o, 2.0, 3.5, 4.0);
}

static void some_are_slow(void **state)
{
	(void)state;
	struct sim_opts o = cluster(50, 64);
	o.slow_share = 0.04;
	run(&o, 1.05, 2.0, 2.2);
}

static void same_seed__same_run(void **state)
{
	(void)state;
	struct sim_opts o = cluster(20, 32);
	struct sim_result a, b;
	sim_run(&o, &a);
	sim_run(&o, &b);
	assert_int_equal(a.n_times, b.n_times);
	assert_int_equal(a.asks, b.asks);
	for (uint32_t i = 0; i < a.n_times; i++) {
		assert_true(a.times_ms[i] >= b.times_ms[i] && a.times_ms[i] <= b.times_ms[i]);
	}
	free(a.times_ms);
	free(b.times_ms);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(two_nodes),	       cmocka_unit_test(ten_nodes),
		cmocka_unit_test(two_hundred_nodes),   cmocka_unit_test(layers),
		cmocka_unit_test(granted_one_dies),    cmocka_unit_test(some_are_slow),
		cmocka_unit_test(same_seed__same_run),
	};
	return cmocka_run_group_tests_name("p2p/sim", tests, NULL, NULL);
}
