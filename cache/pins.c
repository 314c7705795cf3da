/* What an admin wants kept. */
#include "cache/history.h"

#include "cache/mem.h"
#include "cache/store.h"

void pin_unref_locked(struct pin *p)
{
	if (--p->refs > 0) return;
	free(p->p.target);
	free(p);
}

static size_t search_locked(struct cairn_cache *c, const char *target, bool *found)
	CAIRN_REQUIRES(&c->mu)
{
	size_t low = 0, high = c->pins_n;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (strcmp(c->pins[mid]->p.target, target) < 0) {
			low = mid + 1;
		} else {
			high = mid;
		}
	}
	*found = low < c->pins_n && strcmp(c->pins[low]->p.target, target) == 0;
	return low;
}

static struct pin *insert_locked(struct cairn_cache *c, size_t at, const char *target)
	CAIRN_REQUIRES(&c->mu)
{
	struct pin *p = mem_zero(sizeof(*p));
	p->refs = 1;
	p->p.target = mem_dup(target);
	if (c->pins_n == c->pins_cap) {
		c->pins_cap = c->pins_cap > 0 ? 2 * c->pins_cap : 16;
		c->pins = mem_grow(c->pins, c->pins_cap * sizeof(struct pin *));
	}
	memmove(&c->pins[at + 1], &c->pins[at], (c->pins_n - at) * sizeof(struct pin *));
	c->pins[at] = p;
	c->pins_n++;
	return p;
}

static void remove_locked(struct cairn_cache *c, size_t at) CAIRN_REQUIRES(&c->mu)
{
	struct pin *p = c->pins[at];
	c->pins_n--;
	memmove(&c->pins[at], &c->pins[at + 1], (c->pins_n - at) * sizeof(struct pin *));
	p->gone = true;
	writer_add_pin_locked(c, p);
	pin_unref_locked(p);
}

/* At open; the only thread. */
void pins_take_row(struct cairn_cache *c, const struct pin_row *row) CAIRN_LOCKS_UNCHECKED
{
	bool found;
	size_t at = search_locked(c, row->target, &found);
	if (found || row->target[0] == '\0' || strlen(row->target) > CAIRN_NAME_MAX) return;
	if (c->pins_n >= CAIRN_PINS_MAX) return;
	struct pin *p = insert_locked(c, at, row->target);
	p->has_row = true;
	p->p.since_ns = row->since_ns;
	p->p.until_ns = row->until_ns;
}

void pins_free(struct cairn_cache *c)
{
	for (size_t i = 0; i < c->pins_n; i++) pin_unref_locked(c->pins[i]);
	free(c->pins);
	c->pins = NULL;
	c->pins_n = c->pins_cap = 0;
}

static enum cairn_code check(const char *target, struct cairn_err *err)
{
	size_t n = strlen(target);
	if (n > 0 && n <= CAIRN_NAME_MAX) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "a pin's target of %zu bytes: 1 to %d are allowed", n, CAIRN_NAME_MAX);
}

/* It could not be made durable: as it was before (NULL: not pinned). */
static void take_back(struct cairn_cache *c, const char *target, const struct cairn_pin *before)
{
	bool found;
	lock(&c->mu);
	size_t at = search_locked(c, target, &found);
	if (found && before == NULL) {
		remove_locked(c, at);
	} else if (found) {
		c->pins[at]->p.since_ns = before->since_ns;
		c->pins[at]->p.until_ns = before->until_ns;
		writer_add_pin_locked(c, c->pins[at]);
	}
	unlock(&c->mu);
}

enum cairn_code cairn_cache_pin(struct cairn_cache *c, const char *target, int64_t for_ns,
				struct cairn_err *err)
{
	bool found;
	struct cairn_pin before = {0};
	int64_t now = cairn_cache_now_ns(c);
	enum cairn_code code = check(target, err);
	if (code != CAIRN_OK) return code;
	if (for_ns < 0 || for_ns > INT64_MAX - now) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a pin's time is negative or too long");
	}
	lock(&c->mu);
	size_t at = search_locked(c, target, &found);
	if (!found && c->pins_n >= CAIRN_PINS_MAX) {
		code = cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				     "%d pins are set, and no more can be: unpin some first",
				     CAIRN_PINS_MAX);
	} else {
		struct pin *p = found ? c->pins[at] : insert_locked(c, at, target);
		before = p->p;
		p->p.since_ns = now;
		p->p.until_ns = for_ns > 0 ? now + for_ns : 0;
		writer_add_pin_locked(c, p);
	}
	unlock(&c->mu);
	if (code != CAIRN_OK) return code;
	code = writer_sync(c, ROWS_ALL, err);
	if (code != CAIRN_OK) take_back(c, target, found ? &before : NULL);
	return code;
}

enum cairn_code cairn_cache_unpin(struct cairn_cache *c, const char *target, bool *ret_was,
				  struct cairn_err *err)
{
	bool was;
	enum cairn_code code = check(target, err);
	if (code != CAIRN_OK) return code;
	lock(&c->mu);
	size_t at = search_locked(c, target, &was);
	if (was) remove_locked(c, at);
	unlock(&c->mu);
	/* Also when it is not there: an earlier call may have failed to make that durable. */
	code = writer_sync(c, ROWS_ALL, err);
	if (code == CAIRN_OK) *ret_was = was;
	return code;
}

size_t cairn_cache_pins(struct cairn_cache *c, struct cairn_pin **ret)
{
	int64_t now = cairn_cache_now_ns(c);
	lock(&c->mu);
	for (size_t i = c->pins_n; i-- > 0;) {
		const struct cairn_pin *p = &c->pins[i]->p;
		if (p->until_ns != 0 && p->until_ns <= now) remove_locked(c, i);
	}
	size_t n = c->pins_n;
	struct cairn_pin *list = mem_zero(n * sizeof(list[0]));
	for (size_t i = 0; i < n; i++) {
		list[i] = c->pins[i]->p;
		list[i].target = mem_dup(list[i].target);
	}
	unlock(&c->mu);
	*ret = list;
	return n;
}

void cairn_pins_free(struct cairn_pin *list, size_t n)
{
	for (size_t i = 0; i < n; i++) free(list[i].target);
	free(list);
}
