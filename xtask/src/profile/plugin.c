/*
 * A QEMU plugin that counts how often each block of guest code runs.
 *
 * Option: out=FILE, written when QEMU ends: a line "ADDRESS INSTRUCTIONS" for each address at which blocks began, both
 * in hexadecimal, INSTRUCTIONS being all that ran in them.
 *
 * The declarations are those of QEMU's documentation of its plugin interface, version 1 (QEMU 4.2 to 8.x).
 */
#include <inttypes.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_info;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);

EXPORT int qemu_plugin_version = 1;

/* All blocks that begin at one address. Never freed: translated code adds to `instructions`. */
struct block {
    struct block *next;
    uint64_t address;
    uint64_t instructions;
};

#define BUCKETS (1u << 16)
static struct block *buckets[BUCKETS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* buckets and the lists in them */
static const char *out;

static struct block *find(uint64_t address)
{
    struct block **bucket = &buckets[(address ^ address >> 16) % BUCKETS];
    for (struct block *block = *bucket; block; block = block->next)
        if (block->address == address)
            return block;
    struct block *block = calloc(1, sizeof *block);
    if (!block)
        return NULL;
    block->address = address;
    block->next = *bucket;
    *bucket = block;
    return block;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    pthread_mutex_lock(&lock);
    struct block *block = find(qemu_plugin_tb_vaddr(tb));
    pthread_mutex_unlock(&lock);
    if (block)
        qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->instructions,
                                                 qemu_plugin_tb_n_insns(tb));
}

static void ended(qemu_plugin_id_t id, void *data)
{
    (void)id;
    (void)data;
    FILE *file = fopen(out, "w");
    if (!file) {
        perror(out);
        return;
    }
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < BUCKETS; i++)
        for (struct block *block = buckets[i]; block; block = block->next)
            if (block->instructions)
                fprintf(file, "%" PRIx64 " %" PRIx64 "\n", block->address, block->instructions);
    pthread_mutex_unlock(&lock);
    fclose(file);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4))
            out = strdup(argv[i] + 4);
    if (!out) {
        fprintf(stderr, "plugin: out=FILE is missing\n");
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
