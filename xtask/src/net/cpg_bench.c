/* A client of Corosync's closed process groups, for comparison: compiled and run by
 * `cargo xtask bench net`. sink | flood SIZE MS | ring SIZE COUNT PAUSE_MS; one line of JSON. */
#include <corosync/cpg.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static cpg_handle_t handle;
static uint32_t own_node;
static uint32_t own_pid;
static unsigned long own, members;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void deliver(cpg_handle_t h, const struct cpg_name *g, uint32_t node, uint32_t pid, void *msg, size_t len)
{
	(void)h; (void)g; (void)msg; (void)len;
	if (node == own_node && pid == own_pid)
		own++;
}

static void confchg(cpg_handle_t h, const struct cpg_name *g, const struct cpg_address *m, size_t mn,
		    const struct cpg_address *l, size_t ln, const struct cpg_address *j, size_t jn)
{
	(void)h; (void)g; (void)m; (void)l; (void)ln; (void)j; (void)jn;
	members = mn;
}

static void turn(int wait_ms)
{
	int fd;
	struct pollfd p;
	if (cpg_fd_get(handle, &fd) != CS_OK)
		exit(3);
	p.fd = fd;
	p.events = POLLIN;
	if (poll(&p, 1, wait_ms) > 0 && cpg_dispatch(handle, CS_DISPATCH_ALL) != CS_OK)
		exit(4);
}

static int say(char *buffer, size_t size)
{
	struct iovec v = { buffer, size };
	cs_error_t e = cpg_mcast_joined(handle, CPG_TYPE_AGREED, &v, 1);
	if (e != CS_OK && e != CS_ERR_TRY_AGAIN)
		exit(5);
	return e == CS_OK;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	static char buffer[65536];
	cpg_callbacks_t callbacks = { deliver, confchg };
	struct cpg_name group = { 5, "bench" };
	unsigned long wanted = argc > 2 ? strtoul(argv[2], 0, 10) : 0;
	setvbuf(stdout, 0, _IOLBF, 0);
	if (argc < 3 || cpg_initialize(&handle, &callbacks) != CS_OK || cpg_join(handle, &group) != CS_OK)
		return 1;
	if (cpg_local_get(handle, &own_node) != CS_OK)
		return 2;
	own_pid = getpid();
	for (double end = now() + 30; members < wanted;) {
		if (now() > end)
			return 6;
		turn(100);
	}
	puts("ready");
	if (!strcmp(argv[1], "sink"))
		for (;;)
			turn(1000);
	size_t size = strtoul(argv[3], 0, 10);
	if (!strcmp(argv[1], "flood")) {
		double begin = now(), span = atof(argv[4]) / 1000;
		unsigned long sent = 0;
		while (now() - begin < span) {
			if (say(buffer, size))
				sent++;
			else
				turn(1);
			if (sent % 32 == 0)
				turn(0);
		}
		while (own < sent)
			turn(100);
		double took = now() - begin;
		printf("{\"messages\":%lu,\"seconds\":%.3f,\"rate\":%.0f}\n", sent, took, sent / took);
		return 0;
	}
	int count = atoi(argv[4]), pause = atoi(argv[5]);
	double *spans = calloc(count, sizeof *spans);
	for (int i = 0; i < count; i++) {
		if (pause)
			usleep(pause * 1000);
		turn(0);
		unsigned long before = own;
		double begin = now();
		while (!say(buffer, size))
			turn(1);
		while (own == before)
			turn(1000);
		spans[i] = now() - begin;
	}
	qsort(spans, count, sizeof *spans, by_size);
	printf("{\"p50_us\":%.0f,\"p99_us\":%.0f,\"n\":%d}\n", spans[(count - 1) * 50 / 100] * 1e6,
	       spans[(count - 1) * 99 / 100] * 1e6, count);
	return 0;
}
