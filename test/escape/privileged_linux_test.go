package escape

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
)

// privilegedAttack has all capabilities and no filter: a pod may ask for that. It can
// spoil its pod, and still neither see nor change anything of the host.
var privilegedAttack = register("privileged", func(a *attacker) {
	mounted := a.mounts()
	slices.Reverse(mounted)
	unmounted := 0
	for _, target := range mounted {
		if strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "/sys/") {
			if unix.Unmount(target, unix.MNT_DETACH) == nil {
				unmounted++
			}
		}
	}
	a.holds("take off the masks, which it may", unmounted > 5, unmounted)
	_ = unix.Mount("", "/sys", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	for _, name := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/randomize_va_space", "/proc/sys/vm/drop_caches", "/proc/sys/vm/panic_on_oom",
		"/proc/sys/fs/suid_dumpable", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/kcore",
	} {
		_, err := os.OpenFile(name, os.O_WRONLY, 0)
		a.refused("open "+name, err, unix.EACCES, unix.EPERM, unix.ENOENT, unix.EROFS)
	}
	dir := a.folder("disk")
	for _, device := range []struct{ major, minor uint32 }{{1, 1}, {1, 3}, {254, 0}, {8, 0}, {10, 229}} {
		for _, kind := range []uint32{unix.S_IFCHR, unix.S_IFBLK} {
			err := unix.Mknod(dir+"/device", kind|0o666, int(unix.Mkdev(device.major, device.minor)))
			a.refused(fmt.Sprintf("make device %v", device), err, unix.EPERM)
		}
	}
	for _, kind := range []string{"ext4", "xfs", "devtmpfs", "debugfs", "tracefs", "securityfs", "pstore", "binfmt_misc", "fusectl"} {
		err := unix.Mount("/dev/vda", dir, kind, 0, "")
		if kind == "binfmt_misc" && err == nil { // which is a pod's own by now
			if err := unix.Unmount(dir, 0); err != nil {
				a.refused("take it away", nil, unix.EPERM)
			}
			continue
		}
		a.refused("mount "+kind, err, unix.EPERM, unix.ENODEV, unix.ENOENT)
	}
	a.settings(dir)
	for try, err := range map[string]error{
		"settimeofday":    unix.Settimeofday(&unix.Timeval{Sec: 1}),
		"kexec_load":      call(unix.SYS_KEXEC_LOAD, 0, 0, 0, ^uintptr(0)),
		"init_module":     call(unix.SYS_INIT_MODULE, 0, 0, text("")),
		"swapon":          call(unix.SYS_SWAPON, text("/attack"), 0),
		"acct":            call(unix.SYS_ACCT, text("/attack/none")),
		"syslog":          call(unix.SYS_SYSLOG, 5, 0, 0),
		"open by handle":  second(unix.OpenByHandleAt(unix.AT_FDCWD, unix.NewFileHandle(1, make([]byte, 8)), 0)),
		"a file too many": unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 40}),
		"port of I/O":     call(unix.SYS_IOPL, 3),
		"real-time":       call(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, ^uintptr(19)),
	} {
		a.refused(try, err, unix.EPERM, unix.EACCES, unix.ENOSYS, unix.ENOENT)
	}
	for _, target := range append(mounted, "/") {
		_ = unix.Unmount(target, unix.MNT_DETACH)
	}
	a.hidden("look around after all that", "/")
	a.hidden("look around from here", ".")
})

// mounts are the targets of all mounts, in their order.
func (a *attacker) mounts() []string {
	content, err := os.ReadFile("/proc/self/mountinfo")
	a.holds("list its mounts", err == nil, err)
	var targets []string
	for line := range strings.Lines(string(content)) {
		targets = append(targets, strings.Fields(line)[4])
	}
	return targets
}

// settings mounts cgroups, which it may, and tries to change something there.
func (a *attacker) settings(dir string) {
	for _, kind := range []string{"cgroup2", "memory", "pids", "devices", "cpu", "freezer"} {
		fsType, options := "cgroup", kind
		if kind == "cgroup2" {
			fsType, options = "cgroup2", ""
		}
		if err := unix.Mount(fsType, dir, fsType, 0, options); err != nil {
			continue
		}
		for _, name := range names(dir) {
			if file, err := os.OpenFile(dir+"/"+name, os.O_WRONLY, 0); err == nil {
				a.holds("open "+name+" of the "+kind+" controller", false, "it succeeded")
				file.Close()
			}
		}
		a.refused("make a group of "+kind, os.Mkdir(dir+"/new", 0o755), unix.EACCES, unix.EPERM)
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
}

func TestAttackerWithAllCapabilitiesStaysInThePod(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	bystander(t)
	p.holds(t, privilegedAttack, unprotected(t))
	p.holds(t, numbersAttack, unprotected(t))
	p.holds(t, socketsAttack, unprotected(t), func(cfg *sandbox.ContainerConfig) {
		cfg.Env = append(cfg.Env, hostSocketEnv+"=@svcproxy-escape-none", hostKeyEnv+"=77")
	})
	p.untouched(t)
}
