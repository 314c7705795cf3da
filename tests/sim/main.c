/* cairn_sim: a cluster that pulls one cold image, simulated. --help says how. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "cache/pieces.h"
#include "sim.h"

#define MBIT 125.0 /* bytes a millisecond */

static const char help[] =
	"usage: cairn_sim [OPTION VALUE]...\n"
	"\n"
	"N nodes want one image at the same moment, and nobody has it.\n"
	"\n"
	"  --nodes N          how many (10)\n"
	"  --mib N            size of the image (200)\n"
	"  --layers N         of equal size (1)\n"
	"  --at-once N        layers that a node gets at the same time (3)\n"
	"  --mbit N           speed of each node's link, each way (100)\n"
	"  --registry N       Mbit/s of the registry's link (the same)\n"
	"  --die SHARE        the first granted node dies when it has so much of a layer\n"
	"  --slow SHARE       so many of the nodes have a hundredth of the speed\n"
	"  --slots N          followers of a node, for each blob\n"
	"  --start MS         the nodes begin within so long (100)\n"
	"  --tick MS          step of the links (5); 10 is quicker and little different\n"
	"  --seed N           the same seed gives the same run (1)\n";

static double at(const struct sim_result *r, double share)
{
	if (r->n_times == 0) return 0;
	return r->times_ms[(uint32_t)(share * (r->n_times - 1) + 0.5)] / r->ideal_ms;
}

static void print(const struct sim_opts *o, const struct sim_result *r)
{
	uint64_t layer = o->image_bytes / o->blobs;
	double bytes = (double)(layer * o->blobs);
	printf("nodes %u  ideal %.1f s  time / ideal: median %.2f  p99 %.2f  slowest %.2f  "
	       "unfinished %u\n",
	       o->nodes, r->ideal_ms / 1000, at(r, 0.5), at(r, 0.99), at(r, 1), r->unfinished);
	printf("registry bytes / image %.3f  pieces that came twice %.2f %%  directory requests/s: "
	       "peak %llu mean %.0f\n",
	       r->registry_bytes / bytes,
	       100 * (double)r->twice * (double)CAIRN_PIECE_MIN / (bytes * o->nodes),
	       (unsigned long long)r->ask_peak, r->ask_mean);
	printf("followers of one node at most %u  refused for want of a slot, a node %.1f\n",
	       r->most_followers, (double)r->busy / o->nodes);
}

enum option_name {
	NODES,
	MIB,
	LAYERS,
	AT_ONCE,
	SPEED,
	REGISTRY,
	DIE,
	SLOW,
	SLOTS,
	START,
	TICK,
	SEED,
	HELP,
	N_OPTIONS
};

static const struct option options[] = {
	{"nodes", 1, NULL, NODES},     {"mib", 1, NULL, MIB},	 {"layers", 1, NULL, LAYERS},
	{"at-once", 1, NULL, AT_ONCE}, {"mbit", 1, NULL, SPEED}, {"registry", 1, NULL, REGISTRY},
	{"die", 1, NULL, DIE},	       {"slow", 1, NULL, SLOW},	 {"slots", 1, NULL, SLOTS},
	{"start", 1, NULL, START},     {"tick", 1, NULL, TICK},	 {"seed", 1, NULL, SEED},
	{"help", 0, NULL, HELP},       {NULL, 0, NULL, 0},
};

static void apply(struct sim_opts *o, int name, double value)
{
	switch (name) {
	case NODES:
		o->nodes = (uint32_t)value;
		break;
	case MIB:
		o->image_bytes = (uint64_t)(value * 1048576);
		break;
	case LAYERS:
		o->blobs = (uint32_t)value;
		break;
	case AT_ONCE:
		o->at_once = (uint32_t)value;
		break;
	case SPEED:
		o->up = o->down = o->registry = value * MBIT;
		break;
	case REGISTRY:
		o->registry = value * MBIT;
		break;
	case DIE:
		o->die_at = value;
		break;
	case SLOW:
		o->slow_share = value;
		break;
	case SLOTS:
		o->followers = (uint32_t)value;
		break;
	case START:
		o->start_ms = (int64_t)value;
		break;
	case TICK:
		o->tick_ms = (int64_t)value;
		break;
	default:
		o->seed = (uint64_t)value;
		break;
	}
}

static bool sensible(const struct sim_opts *o)
{
	return o->nodes > 0 && o->nodes <= CAIRN_MEMBERS_MAX && o->blobs > 0 && o->at_once > 0 &&
	       cairn_piece_count(o->image_bytes / o->blobs) > 0 && o->up > 0 && o->registry > 0 &&
	       o->start_ms >= 0 && o->tick_ms > 0 && o->tick_ms <= 100 && o->followers > 0 &&
	       o->followers <= CAIRN_FOLLOWERS_MAX && o->slow_share >= 0 && o->slow_share < 1;
}

int main(int argc, char **argv)
{
	struct sim_opts o;
	sim_defaults(&o);
	for (int name; (name = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (name == HELP || name == '?') {
			fputs(help, name == HELP ? stdout : stderr);
			return name == HELP ? 0 : 2;
		}
		apply(&o, name, strtod(optarg, NULL));
	}
	if (optind != argc || !sensible(&o)) {
		fputs(help, stderr);
		return 2;
	}
	struct sim_result r;
	sim_run(&o, &r);
	print(&o, &r);
	free(r.times_ms);
	return r.unfinished > 0;
}
