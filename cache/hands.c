#include "cache/hands.h"

void hands_init(struct hands *h)
{
	*h = (struct hands){0};
	pthread_mutex_init(&h->mu, NULL);
	pthread_cond_init(&h->given, NULL);
	pthread_cond_init(&h->done, NULL);
}

static void *hands_thread(void *arg)
{
	struct hands *h = arg;
	pthread_mutex_lock(&h->mu);
	for (;;) {
		if (h->work != NULL) {
			void (*work)(void *) = h->work;
			void *work_arg = h->arg;
			pthread_mutex_unlock(&h->mu);
			work(work_arg);
			pthread_mutex_lock(&h->mu);
			h->work = NULL;
			pthread_cond_signal(&h->done);
			continue;
		}
		if (h->stop) break;
		pthread_cond_wait(&h->given, &h->mu);
	}
	pthread_mutex_unlock(&h->mu);
	return NULL;
}

enum cairn_code hands_start(struct hands *h, struct cairn_err *err)
{
	int rc = pthread_create(&h->thread, NULL, hands_thread, h);
	if (rc != 0) return cairn_err_sys(err, rc, "start a thread of the store");
	h->started = true;
	return CAIRN_OK;
}

void hands_fini(struct hands *h)
{
	if (h->started) {
		pthread_mutex_lock(&h->mu);
		h->stop = true;
		pthread_cond_signal(&h->given);
		pthread_mutex_unlock(&h->mu);
		pthread_join(h->thread, NULL);
	}
	pthread_cond_destroy(&h->given);
	pthread_cond_destroy(&h->done);
	pthread_mutex_destroy(&h->mu);
}

void hands_enter(struct hands *h)
{
	atomic_fetch_add(&h->writers, 1);
}

void hands_leave(struct hands *h)
{
	atomic_fetch_sub(&h->writers, 1);
}

bool hands_give(struct hands *h, void (*work)(void *arg), void *arg)
{
	if (atomic_load(&h->writers) > 1) return false;
	pthread_mutex_lock(&h->mu);
	bool taken = h->started && h->work == NULL;
	if (taken) {
		h->work = work;
		h->arg = arg;
		pthread_cond_signal(&h->given);
	}
	pthread_mutex_unlock(&h->mu);
	return taken;
}

void hands_wait(struct hands *h)
{
	pthread_mutex_lock(&h->mu);
	while (h->work != NULL) pthread_cond_wait(&h->done, &h->mu);
	pthread_mutex_unlock(&h->mu);
}
