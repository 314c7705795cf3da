/* Listings that tests make up, and passes over them. */
#ifndef CAIRN_TESTS_SUPPORT_PASS_H
#define CAIRN_TESTS_SUPPORT_PASS_H

#include "plugin/gc_pass.h"
#include "support/image.h"

#define SECOND CAIRN_NS_PER_S
#define HOUR (3600 * CAIRN_NS_PER_S)

#define LIST_GROW(list, n) ((list) = realloc((list), ((n) + 1) * sizeof((list)[0])))

static UNUSED void list_image(struct cairn_listing *l, const char *ns, const char *name,
			      const struct cairn_digest *target)
{
	LIST_GROW(l->images, l->n_images);
	l->images[l->n_images++] = (struct cairn_listed_image){strdup(ns), strdup(name), *target};
}

static UNUSED void list_lease(struct cairn_listing *l, const char *ns, const char *id, bool flat,
			      int64_t expires_ns, const struct cairn_digest *content, size_t n)
{
	struct cairn_listed_lease lease = {
		.ns = strdup(ns), .id = strdup(id), .flat = flat, .expires_ns = expires_ns, .n = n};
	lease.content = calloc(n + 1, sizeof(content[0]));
	for (size_t i = 0; i < n; i++) lease.content[i] = content[i];
	LIST_GROW(l->leases, l->n_leases);
	l->leases[l->n_leases++] = lease;
}

static UNUSED void list_container(struct cairn_listing *l, const char *ns, const char *id,
				  const char *image, int64_t created_ns)
{
	LIST_GROW(l->containers, l->n_containers);
	l->containers[l->n_containers++] =
		(struct cairn_listed_container){strdup(ns), strdup(id), strdup(image), created_ns};
}

/* The name stands for root now, as a look at containerd's images finds it. */
static UNUSED void see(struct store *s, const char *name, const struct cairn_digest *root)
{
	char ns[] = "k8s.io", copy[CAIRN_NAME_MAX + 1];
	snprintf(copy, sizeof(copy), "%s", name);
	const struct cairn_listed_image image = {ns, copy, *root};
	cairn_gc_remember_images(s->cache, &image, 1);
}

#endif
