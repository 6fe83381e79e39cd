package escape

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// exeCommand is the name of a link in the image to /proc/self/exe: executing that, the
// process that becomes a program executes svcproxy's own binary once more, in the
// container (CVE-2019-5736).
const (
	exeCommand = "escape-exe"
	exeFDEnv   = "EXE_FD"
)

func init() {
	reexec.Register(exeCommand, func() {
		// The binary cannot be written while it runs, so another program has to do it.
		fd, err := unix.Open("/proc/self/exe", unix.O_PATH, 0)
		if err == nil {
			env := append(os.Environ(), exeFDEnv+"="+strconv.Itoa(fd))
			err = syscall.Exec(workshop+"/"+attackerCommand, []string{attackerCommand, exeAttack}, env)
		}
		fmt.Fprintln(os.Stderr, err)
		syscall.Exit(1)
	})
}

// exeAttack has the host's binary open.
var exeAttack = register("exe", func(a *attacker) {
	a.Facts["files"] = "" // one is the attacker's own
	path := "/proc/self/fd/" + os.Getenv(exeFDEnv)
	var own, binary unix.Stat_t
	err := errors.Join(unix.Stat(workshop+"/"+attackerCommand, &own), unix.Stat(path, &binary))
	a.holds("have the host's binary open", err == nil && (own.Dev != binary.Dev || own.Ino != binary.Ino), err)
	var mount unix.Statfs_t
	err = unix.Statfs(path, &mount)
	a.holds("find it on a writable mount", err == nil && mount.Flags&unix.ST_RDONLY != 0, err)
	a.refused("truncate it", second(os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)), unix.EROFS, unix.EACCES)
	a.refused("write it", second(os.OpenFile(path, os.O_RDWR, 0)), unix.EROFS, unix.ETXTBSY, unix.EACCES)
	a.refused("truncate it by name", unix.Truncate(path, 0), unix.EROFS, unix.EACCES)
	a.refused("change its mode", unix.Chmod(path, 0o4777), unix.EROFS)
	a.refused("set an attribute", unix.Setxattr(path, "user.escape", []byte("x"), 0), unix.EROFS)
	a.hidden("climb from it", path+"/..")
})

// layer makes a folder that lies below the image of the attacker.
func layer(t *testing.T, make func(dir string) error) func(*sandbox.ContainerConfig) {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o755), os.MkdirAll(dir+"/extra", 0o755), make(dir+"/extra")); err != nil {
		t.Fatal(err)
	}
	return func(cfg *sandbox.ContainerConfig) { cfg.Layers = append(cfg.Layers, dir) }
}

func TestAttackerCannotWriteTheProgramOfTheHost(t *testing.T) {
	t.Parallel()
	before, err := os.Stat("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	p := newPrison(t, sandbox.PauseConfig{})
	link := layer(t, func(dir string) error { return os.Symlink("/proc/self/exe", dir+"/"+exeCommand) })
	p.holds(t, exeAttack, link, func(cfg *sandbox.ContainerConfig) {
		cfg.Args, cfg.Env = []string{exeCommand}, append([]string{"PATH=/extra"}, cfg.Env[1:]...)
	})
	after, err := os.Stat("/proc/self/exe")
	if err != nil || after.Size() != before.Size() || after.ModTime() != before.ModTime() || after.Mode() != before.Mode() {
		t.Errorf("this program was %+v and is %+v, %v", before, after, err)
	}
}

// imageAttack changes everything in the image.
var imageAttack = register("image", func(a *attacker) {
	changed := 0
	_ = filepath.WalkDir("/", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil
		case name == "/proc" || name == "/sys" || name == "/dev":
			return fs.SkipDir
		case entry.IsDir():
			_ = os.WriteFile(name+"/planted", []byte("owned"), 0o777)
		case entry.Type().IsRegular():
			if os.WriteFile(name, []byte("owned"), 0) == nil {
				changed++
			}
			_ = os.Chmod(name, 0o6777)
			_ = os.Chown(name, 0, 0)
			_ = os.Link(name, name+"-link")
			_ = os.Rename(name, name+"-renamed")
		}
		return nil
	})
	a.holds("write to files of the own copy, which it may", changed > 0, changed)
	_ = os.RemoveAll("/usr")
	_ = os.RemoveAll("/etc")
})

// snapshot is all that can be seen of a folder.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		owner := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&all, "%s %v %d %v %d:%d", name, info.Mode(), info.Size(), info.ModTime(), owner.Uid, owner.Gid)
		if entry.Type().IsRegular() {
			file, err := os.Open(name)
			if err != nil {
				return err
			}
			defer file.Close()
			sum := sha256.New()
			if _, err := io.Copy(sum, file); err != nil {
				return err
			}
			fmt.Fprintf(&all, " %x", sum.Sum(nil))
		}
		all.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func TestAttackerChangesOnlyItsCopyOfTheImage(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	extra := layer(t, func(dir string) error { return os.WriteFile(dir+"/file", []byte("text"), 0o666) })
	before := snapshot(t, p.image)
	p.holds(t, imageAttack, extra)
	upper := t.TempDir()
	p.holds(t, imageAttack, extra, func(cfg *sandbox.ContainerConfig) { cfg.Upper = upper })
	if after := snapshot(t, p.image); after != before {
		t.Errorf("the image was\n%s\nand is\n%s", before, after)
	}
	// What was written is in the container's own folder.
	if content, err := os.ReadFile(upper + "/upper/planted-renamed"); err != nil || string(content) != "owned" {
		t.Errorf("%q, %v", content, err)
	}
}

// cwdAttack was started in a folder that it should not have.
var cwdAttack = register("cwd", func(a *attacker) {
	dir, err := os.Readlink("/proc/self/cwd")
	a.holds("have a folder outside of the root", err == nil && strings.HasPrefix(dir, "/") && !strings.Contains(dir, "(unreachable)"), dir)
	a.hidden("climb from "+dir, ".")
	for _, name := range []string{"stage", "rw/upper", "upper", "work", "0/usr"} {
		_, err := os.Lstat(name)
		a.refused("find "+name, err, unix.ENOENT, unix.ENOTDIR)
	}
})

// CVE-2024-21626: a working folder that names a descriptor which the process that
// becomes the program has open leads out of the container.
func TestAttackerIsNotStartedOutside(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	dirs := []string{"/proc/self/cwd", "/proc/self/root", "/proc/self/cwd/..", "/proc/thread-self/root/..", "/proc/1/root", "/proc/1/cwd", "/extra/link"}
	for fd := range nstest.Sized(12, 32) {
		dirs = append(dirs, fmt.Sprintf("/proc/self/fd/%d", fd), fmt.Sprintf("/proc/self/fd/%d/..", fd))
	}
	link := layer(t, func(dir string) error { return os.Symlink("/proc/self/fd/7", dir+"/link") })
	upper := func(cfg *sandbox.ContainerConfig) { cfg.Upper = t.TempDir() }
	cfg := p.config(waitAttack)
	link(&cfg)
	container, err := p.StartContainer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer container.Close()
	started := 0
	for _, dir := range dirs {
		edit := func(cfg *sandbox.ContainerConfig) { cfg.Dir = dir }
		if a, err := p.tryStart(t, cwdAttack, link, upper, p.volume(t, "/volume"), edit); err == nil {
			started++
			t.Run("container in "+dir, func(t *testing.T) { a.found(t).held(t) })
		}
		a, err := newPrisoner(t, func(stdin, stdout *os.File) (*sandbox.Process, error) {
			return container.Exec(sandbox.ExecConfig{
				Args: []string{attackerCommand, cwdAttack}, Env: cfg.Env, Dir: dir, Profile: cfg.Profile, Stdin: stdin, Stdout: stdout, Stderr: stdout,
			})
		})
		if err == nil {
			t.Run("exec in "+dir, func(t *testing.T) { a.found(t).held(t) })
		}
	}
	if started == 0 {
		t.Error("no container started, not even in /proc/self/root, which is its own")
	}
}
