/* A plugin for qemu-user, option to=PATH: counts the instructions of the emulated program. When the program closes
   file descriptor MARK, the count since the last time is written to PATH, where the program reads it.

   Debian has no header for plugins, so the functions used are declared here; VERSION is that of qemu's interface. */
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define MARK (-13579)
#define CLOSE 57 /* the number of close on aarch64 */

struct qemu_plugin_tb;
typedef uint64_t plugin_id;
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*call)(unsigned, void *), int flags,
                                          void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*call)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_syscall_cb(plugin_id id,
                                          void (*call)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                       uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));

int qemu_plugin_version = VERSION;
static uint64_t count;
static int file = -1;

static void executed(unsigned cpu, void *instructions) { count += (uintptr_t)instructions; }

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
    uintptr_t instructions = qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, (void *)instructions);
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    if (number == CLOSE && (int32_t)a == MARK) {
        if (pwrite(file, &count, sizeof count, 0) != sizeof count) _exit(3);
        count = 0;
    }
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    if (argc != 1 || strncmp(argv[0], "to=", 3)) return 1;
    file = open(argv[0] + 3, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0) return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
