package escape

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
)

var mountAttack = register("mount", func(a *attacker) {
	dir, other := a.folder("mount"), a.folder("other")
	for _, m := range []struct {
		try, source, target, kind string
		flags                     uintptr
		options                   string
	}{
		{"mount tmpfs", "tmpfs", dir, "tmpfs", 0, ""},
		{"mount proc", "proc", dir, "proc", 0, ""},
		{"mount sysfs", "sysfs", dir, "sysfs", 0, ""},
		{"mount cgroup2", "cgroup2", dir, "cgroup2", 0, ""},
		{"mount cgroup v1", "cgroup", dir, "cgroup", 0, "memory"},
		{"mount devpts", "devpts", dir, "devpts", 0, ""},
		{"mount mqueue", "mqueue", dir, "mqueue", 0, ""},
		{"mount overlay", "overlay", dir, "overlay", 0, "lowerdir=/attack:/etc"},
		{"mount the disk", "/dev/vda", dir, "ext4", 0, ""},
		{"bind /", "/", dir, "", unix.MS_BIND | unix.MS_REC, ""},
		{"bind over a mask", "/attack", "/proc/scsi", "", unix.MS_BIND, ""},
		{"move /proc", "/proc", dir, "", unix.MS_MOVE, ""},
		{"remount /proc/sys writable", "", "/proc/sys", "", unix.MS_REMOUNT | unix.MS_BIND, ""},
		{"remount /sys writable", "", "/sys", "", unix.MS_REMOUNT | unix.MS_BIND, ""},
		{"make mounts shared", "", "/", "", unix.MS_SHARED | unix.MS_REC, ""},
	} {
		a.refused(m.try, unix.Mount(m.source, m.target, m.kind, m.flags, m.options), unix.EPERM)
	}
	for _, masked := range []string{"/proc/kcore", "/proc/keys", "/proc/sys", "/sys", "/dev", "/"} {
		a.refused("unmount "+masked, unix.Unmount(masked, unix.MNT_DETACH), unix.EPERM)
	}
	a.refused("pivot_root", unix.PivotRoot(other, other), unix.EPERM)
	a.hidden("look around after mounting", "/")
})

var newMountAttack = register("new mount API", func(a *attacker) {
	dir := a.folder("newmount")
	fd, err := unix.Fsopen("tmpfs", 0)
	a.refused("fsopen tmpfs", err, unix.EPERM)
	if err == nil {
		err = unix.FsconfigCreate(fd)
		if err == nil {
			fd, err = unix.Fsmount(fd, 0, 0)
		}
		if err == nil {
			err = unix.MoveMount(fd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
		}
		a.refused("attach a new tmpfs", err, unix.EPERM)
	}
	_, err = unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
	a.refused("open_tree /", err, unix.EPERM)
	_, err = unix.Fspick(unix.AT_FDCWD, "/proc", 0)
	a.refused("fspick /proc", err, unix.EPERM)
	a.refused("move_mount /proc", unix.MoveMount(unix.AT_FDCWD, "/proc", unix.AT_FDCWD, dir, 0), unix.EPERM)
	a.refused("mount_setattr /proc/sys", unix.MountSetattr(unix.AT_FDCWD, "/proc/sys", 0,
		&unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}), unix.EPERM)
	file, err := os.OpenFile("/proc/sys/kernel/hostname", os.O_WRONLY, 0)
	a.refused("open a setting after all that", err, unix.EROFS, unix.EACCES)
	file.Close()
})

var namespaceAttack = register("namespaces", func(a *attacker) {
	for name, flag := range map[string]uintptr{
		"user": unix.CLONE_NEWUSER, "mount": unix.CLONE_NEWNS, "pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET,
		"uts": unix.CLONE_NEWUTS, "ipc": unix.CLONE_NEWIPC, "cgroup": unix.CLONE_NEWCGROUP, "time": unix.CLONE_NEWTIME,
	} {
		if name != "user" && name != "time" {
			a.refused("clone into a new "+name+" namespace", cloned(flag), unix.EPERM)
		}
		a.refused("unshare "+name, inThread(func() error { return call(unix.SYS_UNSHARE, flag) }), unix.EPERM)
	}
	a.refused("clone into a new user namespace and mount", cloned(unix.CLONE_NEWUSER|unix.CLONE_NEWNS), unix.EPERM)
	a.refused("clone3", call(unix.SYS_CLONE3, 0, 0), unix.ENOSYS)
	for _, name := range []string{"user", "mnt", "pid", "net", "uts", "ipc", "cgroup"} {
		file, err := os.Open("/proc/1/ns/" + name)
		if err == nil {
			err = inThread(func() error { return unix.Setns(int(file.Fd()), 0) })
			file.Close()
		}
		a.refused("enter the "+name+" namespace of PID 1", err, unix.EPERM, unix.EACCES)
	}
})

// cloned starts a process, which does nothing, in new namespaces.
func cloned(flags uintptr) error {
	cmd := exec.Command("/proc/self/exe", "nothing")
	cmd.Args[0] = nothingCommand
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	return cmd.Run()
}

// A process that was let into a root that it should have left by a folder that it
// still has open climbs out of it.
var chrootAttack = register("chroot", func(a *attacker) {
	before, err := identity("/")
	a.holds("look at /", err == nil, err)
	outside, err := os.Open("/")
	a.holds("open /", err == nil, err)
	err = unix.Chroot(a.folder("jail"))
	a.holds("chroot, which the default capabilities allow", err == nil, err)
	a.holds("leave the folder", unix.Fchdir(int(outside.Fd())) == nil, "")
	for range 50 {
		if err := unix.Chdir(".."); err != nil {
			a.holds("climb", false, err)
		}
	}
	a.holds("chroot to where the climb ends", unix.Chroot(".") == nil, "")
	after, err := identity("/")
	a.holds("climb out of the pod's root", err == nil && before == after, fmt.Sprintf("from %s to %s, %v", before, after, err))
	a.hidden("look around from there", "/")
})

// identity tells folders apart.
func identity(name string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return fmt.Sprintf("%d/%d", st.Dev, st.Ino), nil
}

func TestAttackerMountsNothing(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	p.holds(t, mountAttack)
	p.escapes(t, mountAttack, "mount tmpfs", "bind /", "move /proc", "make mounts shared")
	p.holds(t, newMountAttack)
	p.escapes(t, newMountAttack, "fsopen tmpfs", "attach a new tmpfs", "open_tree /", "mount_setattr /proc/sys", "open a setting after all that")
}

func TestAttackerMakesNoNamespaces(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	p.holds(t, namespaceAttack)
	p.escapes(t, namespaceAttack, "unshare user", "unshare net", "clone into a new user namespace and mount", "enter the uts namespace of PID 1")
}

func TestAttackerStaysInItsRoot(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	p.holds(t, chrootAttack)
}

// What looks for the host's file finds it where it can be seen.
func TestTheMarkerIsFoundOnTheHost(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	a := &attacker{marker: p.marker, secret: p.secret}
	if !a.seesHost("/") || !a.seesHost("/tmp") || !a.seesHost("/proc/self/root") {
		t.Error("the host's file is not found on the host")
	}
	if strings.Contains(p.marker, p.image) {
		t.Error("the host's file is in the image")
	}
}
