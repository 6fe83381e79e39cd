package image_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox/image"
	"svcproxy/test/nstest"
)

func store(t *testing.T, o image.Options) *image.Store {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "store")
	}
	s, err := image.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func get(t *testing.T, s *image.Store, reference string) *image.Image {
	t.Helper()
	i, err := tryGet(t.Context(), s, reference)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func tryGet(ctx context.Context, s *image.Store, reference string) (*image.Image, error) {
	r, err := image.ParseReference(reference)
	if err != nil {
		return nil, err
	}
	return s.Get(ctx, r)
}

// inside runs a program with the image as its whole file system, and /proc.
func inside(t *testing.T, i *image.Image, args ...string) string {
	t.Helper()
	nstest.Require(t)
	root := i.Layers[0]
	proc := filepath.Join(root, "proc")
	if err := unix.Mount("proc", proc, "proc", 0, ""); err != nil {
		t.Fatalf("mount /proc: %v", err)
	}
	defer func() {
		if err := unix.Unmount(proc, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Env = append([]string{helperEnv + "=1", "TERM=xterm"}, i.Config.Env...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// The chapter's box: bash, ls, ps, kill and curl run in it, and nothing else is there.
func TestHostProgramsRunInside(t *testing.T) {
	s := store(t, image.Options{})
	began := time.Now()
	i := get(t, s, "host:bash,ls,ps,kill,curl,getent,svcproxy")
	t.Logf("assembled in %v", time.Since(began))

	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"/bin/bash", "-c", "echo $((6 * 7))"}, "42\n"},
		{[]string{"/bin/sh", "-c", "command -v bash"}, "/bash\n"},
		{[]string{"/bin/bash", "-c", "ls -l /usr/bin/curl && ls -ld /tmp"}, "drwxrwxrwt"},
		{[]string{"/usr/bin/ps", "ax"}, "PID"},
		{[]string{"/bin/bash", "-c", "/bin/kill -0 $$ && echo alive"}, "alive"},
		{[]string{"/usr/bin/curl", "--version"}, "https"},
		{[]string{"/usr/bin/curl", "-s", "file:///etc/hosts"}, "localhost"},
		{[]string{"/usr/bin/getent", "passwd", "nobody"}, "nobody:x:65534"},
		{[]string{"/usr/bin/getent", "hosts", "ip6-localhost"}, "::1"},
		{[]string{"/bin/bash", "-c", "svcproxy"}, "hello from svcproxy"},
		{[]string{"/bin/bash", "-c", "ls /home /work /etc/shadow 2>&1 || true"}, "No such file"},
	} {
		if out := inside(t, i, c.args...); !strings.Contains(out, c.want) {
			t.Errorf("%q: no %q in %q", c.args, c.want, out)
		}
	}
	if _, err := os.Stat("/etc/ssl/certs/ca-certificates.crt"); err == nil {
		if _, err := os.Stat(filepath.Join(i.Layers[0], "etc/ssl/certs/ca-certificates.crt")); err != nil {
			t.Error(err)
		}
	}
}

// No file of the root is one of the machine, since pods share the root, and none gains privileges.
func TestHostFilesAreCopies(t *testing.T) {
	i := get(t, store(t, image.Options{}), "host:bash,passwd")
	files := 0
	err := filepath.WalkDir(i.Layers[0], func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 || info.Mode().Perm()&0o022 != 0 || info.Sys().(*syscall.Stat_t).Nlink != 1 {
			t.Errorf("%s: %v, %d links", path, info.Mode(), info.Sys().(*syscall.Stat_t).Nlink)
		}
		return nil
	})
	if err != nil || files < 5 {
		t.Fatal(files, err)
	}
	if info, err := os.Stat("/usr/bin/passwd"); err != nil || info.Mode()&fs.ModeSetuid == 0 {
		t.Fatal("passwd is not set-user-ID here, the test shows nothing:", info, err)
	}
}

func program(t *testing.T, name, content string, mode fs.FileMode) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestHostScriptBringsItsInterpreter(t *testing.T) {
	file := program(t, "greet", "#!/usr/bin/env bash\necho \"hello $1\"\n", 0o755)
	i := get(t, store(t, image.Options{}), "host:ls,"+file)
	for _, name := range []string{file, "/usr/local/bin/greet"} {
		if out := inside(t, i, name, "you"); out != "hello you\n" {
			t.Errorf("%s: %q", name, out)
		}
	}
}

// A program that is a symlink keeps its name, as programs need that are many in one.
func TestHostSymlinkedProgram(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	multi := filepath.Join(dir, "real/multi")
	if err := os.WriteFile(multi, []byte("#!/bin/bash\necho \"I am ${0##*/}\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"folder": "real", "one": "folder/multi", "two": filepath.Join(dir, "one")} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	i := get(t, store(t, image.Options{}), "host:bash,one,two")
	for _, name := range []string{"one", "two"} {
		if out := inside(t, i, "/bin/bash", "-c", name); out != "I am "+name+"\n" {
			t.Errorf("%s: %q", name, out)
		}
	}
}

func TestHostRefuses(t *testing.T) {
	loop := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for reference, want := range map[string]string{
		"host:nosuch":      "host:nosuch: program not found in PATH",
		"host:bash,nosuch": "nosuch: program not found in PATH",
		"host:/nosuch":     "no such file",
		"host:/etc/shadow": "not a program",
		"host:/etc":        "not a program",
		"host:/dev/null":   "not a program",
		"host:" + loop:     "too many levels of symbolic links",
		"host:" + program(t, "text", "secret\n", 0o755):       "neither an ELF executable nor a script",
		"host:" + program(t, "empty", "", 0o755):              "neither an ELF executable nor a script",
		"host:" + program(t, "half", "\x7fELF\x02", 0o755):    "",
		"host:" + program(t, "mine", "#!/bin/sh\n", 0o711):    "not for everybody to read",
		"host:" + program(t, "lost", "#!/no/sh\n", 0o755):     "interpreter /no/sh",
		"host:" + program(t, "rel", "#!sh\n", 0o755):          "no absolute path",
		"host:" + program(t, "env", "#!/bin/env no\n", 0o755): "interpreter no: program not found",
	} {
		s := store(t, image.Options{})
		_, err := tryGet(t.Context(), s, reference)
		if err == nil || !strings.HasPrefix(err.Error(), reference+": ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", reference, err)
		}
	}
}

// An upgrade makes a new root; what has not changed does not.
func TestHostProgramChanged(t *testing.T) {
	s := store(t, image.Options{})
	file := program(t, "tool", "#!/bin/bash\necho old\n", 0o755)
	first, again := get(t, s, "host:"+file), get(t, s, "host:"+file)
	if first.ID != again.ID || first.Layers[0] != again.Layers[0] {
		t.Errorf("%v, then %v", first, again)
	}
	if err := os.WriteFile(file+".new", []byte("#!/bin/bash\necho new\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	upgraded := get(t, s, "host:"+file)
	if upgraded.ID == first.ID {
		t.Fatal("the same root for another program")
	}
	if old, new := inside(t, first, file), inside(t, upgraded, file); old != "old\n" || new != "new\n" {
		t.Errorf("%q, %q", old, new)
	}
}

// With a base, owners are shifted, and the root of a user namespace with that base can use all.
func TestHostOwners(t *testing.T) {
	const base = 1 << 30
	probe := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := store(t, image.Options{UIDBase: base})
	i, err := tryGet(t.Context(), s, "host:bash,ls")
	if os.Lchown(probe, base, base) != nil {
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
			t.Fatalf("who can't give files away: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".", "root", "bin", "usr/bin/bash", "etc/passwd"} {
		info, err := os.Lstat(filepath.Join(i.Layers[0], name))
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != base || st.Gid != base {
			t.Errorf("%s: %d:%d", name, st.Uid, st.Gid)
		}
	}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: base, Size: 65536}}
	cmd := exec.CommandContext(t.Context(), "/bin/bash", "-c", "ls -la /root && ls -ln /etc/passwd")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids,
		Credential: &syscall.Credential{}, Chroot: i.Layers[0]}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), " 0 0 ") {
		t.Errorf("%v\n%s", err, out)
	}
}
