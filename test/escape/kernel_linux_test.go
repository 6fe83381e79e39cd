package escape

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
	"svcproxy/sandbox/confine"
)

// text is an argument of a system call.
func text(s string) uintptr {
	p, err := unix.BytePtrFromString(s)
	if err != nil {
		panic(err)
	}
	pinned = append(pinned, p)
	return uintptr(unsafe.Pointer(p))
}

var pinned []*byte

// callsAttack makes system calls that change or tell of the machine. Their arguments do
// no harm, or are wrong, so that a kernel that lets them through says something else
// than EPERM.
var callsAttack = register("calls", func(a *attacker) {
	const wrong = ^uintptr(0)
	for _, c := range []struct {
		try    string
		number uintptr
		args   []uintptr
	}{
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, []uintptr{wrong, 0, 0}},
		{"keyctl", unix.SYS_KEYCTL, []uintptr{0, wrong, 0}},
		{"add_key", unix.SYS_ADD_KEY, []uintptr{text("user"), text("escape"), 0, 0, wrong - 3}},
		{"request_key", unix.SYS_REQUEST_KEY, []uintptr{text("user"), text("escape")}},
		{"bpf", unix.SYS_BPF, []uintptr{99}},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, []uintptr{0}},
		{"userfaultfd", unix.SYS_USERFAULTFD, []uintptr{1}}, // user mode only, which needs no privilege
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, []uintptr{0}},
		{"io_uring_enter", unix.SYS_IO_URING_ENTER, []uintptr{wrong}},
		{"io_uring_register", unix.SYS_IO_URING_REGISTER, []uintptr{wrong}},
		{"kexec_load", unix.SYS_KEXEC_LOAD, []uintptr{0, 0, 0, wrong}},
		{"kexec_file_load", unix.SYS_KEXEC_FILE_LOAD, []uintptr{wrong, wrong, 0, 0, wrong}},
		{"init_module", unix.SYS_INIT_MODULE, []uintptr{0, 0, text("")}},
		{"finit_module", unix.SYS_FINIT_MODULE, []uintptr{wrong, text(""), 0}},
		{"delete_module", unix.SYS_DELETE_MODULE, []uintptr{text("escape"), 0}},
		{"reboot", unix.SYS_REBOOT, []uintptr{0, 0, 0}},
		{"swapon", unix.SYS_SWAPON, []uintptr{text("/attack"), 0}},
		{"swapoff", unix.SYS_SWAPOFF, []uintptr{text("/attack")}},
		{"settimeofday", unix.SYS_SETTIMEOFDAY, []uintptr{0, 0}},
		{"clock_settime", unix.SYS_CLOCK_SETTIME, []uintptr{unix.CLOCK_REALTIME, 0}},
		{"acct", unix.SYS_ACCT, []uintptr{text("/attack/none")}},
		{"quotactl", unix.SYS_QUOTACTL, []uintptr{wrong, text("/dev/vda"), 0, 0}},
		{"syslog", unix.SYS_SYSLOG, []uintptr{3, 0, 0}},
		{"sethostname", unix.SYS_SETHOSTNAME, []uintptr{text("owned"), 5}},
		{"setdomainname", unix.SYS_SETDOMAINNAME, []uintptr{text("owned"), 5}},
		{"vhangup", unix.SYS_VHANGUP, nil},
		{"fanotify_init", unix.SYS_FANOTIFY_INIT, []uintptr{unix.FAN_CLASS_CONTENT, 0}},
		{"move_pages", unix.SYS_MOVE_PAGES, []uintptr{0, 1, 0, 0, 0, wrong}},
		{"personality without randomized addresses", unix.SYS_PERSONALITY, []uintptr{0x0040000}},
		{"a socket of virtual machines", unix.SYS_SOCKET, []uintptr{unix.AF_VSOCK, wrong, 0}},
		{"a socket of the kernel's cryptography", unix.SYS_SOCKET, []uintptr{unix.AF_ALG, wrong, 0}},
	} {
		a.refused(c.try, call(c.number, c.args...), unix.EPERM)
	}
	// The default profile lets it through for reading the clock's state.
	a.refused("adjtimex", second(unix.Adjtimex(&unix.Timex{Modes: 0x8000 /* ADJ_SETOFFSET needs more than this */ | 1})), unix.EPERM)
	a.refused("raise the limit of open files", unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 40, Max: 1 << 40}), unix.EPERM)
	a.refused("a real-time priority", call(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_FIFO, uintptr(unsafe.Pointer(&[]int32{50}[0]))), unix.EPERM)
	name, err := os.Hostname()
	a.holds("change the pod's name", err == nil && strings.HasPrefix(name, "attacker-"), name)
})

// machineCalls are those that a pod's root may make, so that nothing but the filter and
// missing capabilities refuse them.
var machineCalls = []string{
	"keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "sethostname", "setdomainname",
	"personality without randomized addresses", "a socket of the kernel's cryptography",
}

func TestAttackerMakesNoCallsUponTheMachine(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	p.holds(t, callsAttack)
	p.escapes(t, callsAttack, machineCalls...)
}

// pathsAttack looks at what container runtimes mask or protect.
var pathsAttack = register("paths", func(a *attacker) {
	shown := 0
	for _, name := range confine.MaskedPaths {
		content, err := readAny(name)
		a.holds("read "+name, errors.Is(err, fs.ErrNotExist) || err == nil && content == "", content)
		a.refused("write "+name+"/x", second(os.Create(name+"/x")), unix.ENOENT, unix.ENOTDIR, unix.EROFS)
	}
	for _, name := range confine.ReadonlyPaths {
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		shown++
		var mount unix.Statfs_t
		err := unix.Statfs(name, &mount)
		a.holds(name+" is on a read-only mount", err == nil && mount.Flags&unix.ST_RDONLY != 0, err)
	}
	a.holds("there are paths to protect", shown > 1, shown)
	for _, name := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/kernel/randomize_va_space",
		"/proc/sys/vm/panic_on_oom", "/proc/sys/vm/drop_caches", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/suid_dumpable",
	} {
		_, err := os.OpenFile(name, os.O_WRONLY, 0)
		a.refused("open "+name, err, unix.EROFS, unix.EACCES)
	}
	for _, name := range []string{ // not every kernel has them
		"/proc/sys/kernel/modprobe", "/proc/sys/kernel/sysrq", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/proc/sys/fs/binfmt_misc/register",
		"/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/cgroup.procs", "/sys/power/state", "/sys/class/net/eth0/mtu",
		"/sys/kernel/debug", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/kmem", "/proc/mtrr",
	} {
		_, err := os.OpenFile(name, os.O_WRONLY, 0)
		a.refused("open "+name, err, unix.EROFS, unix.EACCES, unix.ENOENT, unix.EISDIR)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err == nil {
		a.holds("hide from the OOM killer", false, "it succeeded")
	}
})

// readAny is what a file or folder holds.
func readAny(name string) (string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	if info.IsDir() {
		return strings.Join(names(name), " "), nil
	}
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	buffer := make([]byte, 64)
	n, _ := file.Read(buffer)
	return string(buffer[:n]), nil
}

// walkAttack tries each file of /proc and /sys for writing.
var walkAttack = register("walk", func(a *attacker) {
	tried, writable := 0, map[string]bool{}
	for _, root := range []string{"/proc", "/sys"} {
		_ = filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if entry.IsDir() && slices.Contains([]string{"self", "thread-self", "1"}, entry.Name()) {
				return fs.SkipDir // its own
			}
			if !entry.Type().IsRegular() {
				return nil
			}
			tried++
			fd, err := unix.Open(name, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
				writable[name] = true
			}
			return nil
		})
	}
	a.holds("find files to try", tried > 500, tried)
	for _, harmless := range slices.Concat(confine.MaskedPaths, []string{
		// What is masked is /dev/null. The others let anybody wait for the machine being busy.
		"/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory",
	}) {
		delete(writable, harmless)
	}
	a.holds("open files for writing", len(writable) == 0, writable)
})

func TestAttackerChangesNoSettingOfTheMachine(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	p.holds(t, pathsAttack)
	p.holds(t, walkAttack)
}

// devicesAttack looks for devices, and makes some.
var devicesAttack = register("devices", func(a *attacker) {
	want := []string{"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}
	a.holds("find more in /dev", slices.Equal(names("/dev"), want), names("/dev"))
	for _, name := range want {
		if file, err := os.OpenFile("/dev/"+name, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0); err == nil {
			var st unix.Stat_t
			_ = unix.Fstat(int(file.Fd()), &st)
			major := unix.Major(st.Rdev)
			a.holds("open /dev/"+name, st.Mode&unix.S_IFMT != unix.S_IFBLK && (major == 0 || major == 1 && unix.Minor(st.Rdev) > 2 || major == 5), st.Rdev)
			file.Close()
		}
	}
	for name, device := range map[string]struct {
		kind         uint32
		major, minor uint32
	}{
		"mem": {unix.S_IFCHR, 1, 1}, "kmsg": {unix.S_IFCHR, 1, 11}, "vda": {unix.S_IFBLK, 254, 0}, "sda": {unix.S_IFBLK, 8, 0},
		"fuse": {unix.S_IFCHR, 10, 229}, "tun": {unix.S_IFCHR, 10, 200}, "kvm": {unix.S_IFCHR, 10, 232}, "null": {unix.S_IFCHR, 1, 3},
	} {
		for _, dir := range []string{"/attack", "/dev", "/dev/shm", "/volume"} {
			path := dir + "/" + name + "-made"
			err := unix.Mknod(path, device.kind|0o666, int(unix.Mkdev(device.major, device.minor)))
			a.refused("make "+path, err, unix.EPERM)
			a.refused("open "+path, second(os.OpenFile(path, os.O_RDWR, 0)), unix.ENOENT)
		}
	}
	// Nodes of other kinds are no devices, and the capability for them is a default one.
	a.holds("make a named pipe", unix.Mkfifo("/attack/pipe", 0o600) == nil, "")
})

func TestAttackerHasNoDevices(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	p.holds(t, devicesAttack, p.volume(t, "/volume"))
}

// volume mounts a folder of the host that is the pod's, as an emptyDir is.
func (p *prison) volume(t *testing.T, target string) func(*sandbox.ContainerConfig) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return func(cfg *sandbox.ContainerConfig) {
		cfg.Mounts = append(cfg.Mounts, sandbox.Mount{Kind: sandbox.Bind, Source: dir, Target: target})
	}
}
