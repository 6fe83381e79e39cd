package sandbox_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// volume makes a folder for the pods' root with these files; names that end in "->"
// are symbolic links to their content.
func volume(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		file := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		if link, ok := strings.CutSuffix(file, "->"); ok {
			err = errors.Join(err, os.Symlink(content, link))
		} else {
			err = errors.Join(err, os.WriteFile(file, []byte(content), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	own(t, dir)
	return dir
}

// own gives all in the folder to the pods' root.
func own(t testing.TB, dir string) {
	t.Helper()
	base := users(t).Base
	if base == 0 {
		return
	}
	if err := filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(name, base, base))
	}); err != nil {
		t.Fatal(err)
	}
}

// private makes a folder that only this user may enter, with one for pods in it.
func private(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	inner := filepath.Join(dir, "inner")
	if err := errors.Join(os.Mkdir(inner, 0o755), os.Chmod(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	own(t, inner)
	return inner
}

func TestMounts(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash", "cat", "ls", "df", "stat", "mkdir")
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	data, config := volume(t, map[string]string{"file": "data\n", "sub/inner": "inner\n"}), volume(t, map[string]string{"key": "value\n"})
	hidden := private(t)
	out, _ := script(t, pod, sandbox.ContainerConfig{Layers: []string{layer}, Mounts: []sandbox.Mount{
		{Source: filepath.Join(config, "key"), Target: "/data/deep/key", ReadOnly: true},
		{Source: data, Target: "/data"},
		{Source: data, Target: "/readonly", ReadOnly: true},
		{Source: data, SubPath: "sub", Target: "/sub"},
		{Source: data, SubPath: "new/folder", Target: "/new"},
		{Source: hidden, Target: "/hidden"},
		{Kind: sandbox.Tmpfs, Target: "/scratch", Size: 1 << 20, Mode: 0o750},
		{Kind: sandbox.Tmpfs, Target: "/tmp"},
		{Source: filepath.Join(config, "key"), Target: "/dev/termination-log"},
	}}, `
		cat /data/file /data/deep/key /sub/inner /dev/termination-log
		echo more > /data/more; echo x > /data/deep/key; echo x > /readonly/x; echo new > /new/file; echo h > /hidden/h
		df --output=target,size /scratch; stat -c '%n %a' /scratch /tmp; echo x > /tmp/x && cat /tmp/x`)
	for _, want := range []string{
		"data\nvalue\ninner\nvalue\n", "/data/deep/key: Read-only file system", "/readonly/x: Read-only file system",
		"1024\n", "/scratch 750\n", "/tmp 1777\nx\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	for file, want := range map[string]string{
		data + "/more": "more\n", data + "/new/folder/file": "new\n", hidden + "/h": "h\n", config + "/key": "value\n",
	} {
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s outside: %q, %v", file, got, err)
		}
	}
}

func TestMountsBelowASourceComeAlongWithTheirFlags(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash", "cat")
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	outer := volume(t, nil)
	inner := filepath.Join(outer, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", inner, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOATIME, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(inner, 0); err != nil {
			t.Error(err)
		}
	}()
	out, _ := script(t, pod, sandbox.ContainerConfig{Layers: []string{layer}, Mounts: []sandbox.Mount{
		{Source: outer, Target: "/rw"}, {Source: outer, Target: "/ro", ReadOnly: true},
	}}, "cat /proc/mounts; : > /ro/inner/x")
	for _, want := range []string{
		"tmpfs /rw/inner tmpfs rw,nosuid,nodev,noexec,noatime", "tmpfs /ro/inner tmpfs ro,nosuid,nodev,noexec,noatime", "/ro/inner/x: Read-only",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestSymbolicLinksLeadNowhereOutside(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	secret := volume(t, map[string]string{"secret": "secret\n"})
	data := volume(t, map[string]string{
		"absolute->": secret, "up->": strings.Repeat("../", 20) + secret[1:], "root->": "/", "file->": secret + "/secret", "ok/here": "here\n", "good->": "/ok",
	})
	node := newNode(t, sandbox.NodeConfig{Name: "node"})
	pod := newPod(t, node, sandbox.PodConfig{})
	layer := image(t, "bash", "cat", "ls")
	for _, link := range []string{"absolute", "up", "file", "up/secret", strings.Repeat("../", 20) + secret[1:]} {
		_, err := pod.StartContainer(sandbox.ContainerConfig{
			Name: "main", Layers: []string{layer}, Args: []string{"bash"},
			Mounts: []sandbox.Mount{{Source: data, SubPath: link, Target: "/data", ReadOnly: true}},
		})
		if err == nil || !strings.Contains(err.Error(), "mount /data: sub-path "+link) {
			t.Errorf("sub-path %s: %v", link, err)
		}
	}
	out, _ := script(t, pod, sandbox.ContainerConfig{Layers: []string{layer}, Mounts: []sandbox.Mount{
		{Source: data, SubPath: "good", Target: "/good"}, {Source: data, SubPath: "root", Target: "/all"},
	}}, "cat /good/here /all/ok/here")
	if out != "here\nhere\n" {
		t.Errorf("links inside of the source: %q", out)
	}

	// The image's links are followed, in the container.
	hostile := volume(t, map[string]string{
		"data->": strings.Repeat("../", 20) + secret[1:], "etc->": secret, "kernel->": "/proc/sys/kernel", "sub/x->": secret + "/secret",
	})
	out, _ = script(t, pod, sandbox.ContainerConfig{Layers: []string{hostile, layer}, Mounts: []sandbox.Mount{
		{Kind: sandbox.Tmpfs, Target: "/data/new"},
		{Source: filepath.Join(data, "ok/here"), Target: "/etc/file"},
		{Source: filepath.Join(data, "ok/here"), Target: "/sub/x"},
	}}, fmt.Sprintf("cat /sub/x %[1]s/file %[1]s/secret; ls -d %[1]s/new", secret))
	if !strings.HasPrefix(out, "here\nhere\nhere\n") || !strings.HasSuffix(out, secret+"/new\n") {
		t.Errorf("targets behind links: %q", out)
	}
	if content, err := os.ReadFile(secret + "/secret"); err != nil || string(content) != "secret\n" {
		t.Errorf("outside: %q, %v", content, err)
	}
	if left, _ := os.ReadDir(secret); len(left) != 1 {
		t.Errorf("a mount's target was made outside: %v", left)
	}
	_, err := pod.StartContainer(sandbox.ContainerConfig{
		Name: "main", Layers: []string{hostile, layer}, Args: []string{"bash"}, Mounts: []sandbox.Mount{{Kind: sandbox.Tmpfs, Target: "/kernel"}},
	})
	if err == nil || !strings.Contains(err.Error(), "mount /kernel: the target leads into /proc") {
		t.Errorf("a target behind a link into /proc: %v", err)
	}
}

func TestRootIsLayered(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	base := image(t, "bash", "cat", "rm")
	top := volume(t, map[string]string{"etc/motd": "top\n"})
	below := volume(t, map[string]string{"etc/motd": "below\n", "etc/os": "os\n"})
	upper := private(t)
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	cfg := sandbox.ContainerConfig{Layers: []string{top, below, base}, Upper: upper}
	out, _ := script(t, pod, cfg, "cat /etc/motd /etc/os; rm /etc/os; echo mine > /etc/motd; echo rw > /file")
	if out != "top\nos\n" {
		t.Errorf("layers show %q", out)
	}
	out, _ = script(t, pod, cfg, "cat /etc/motd /file; cat /etc/os")
	if !strings.HasPrefix(out, "mine\nrw\n") || !strings.Contains(out, "/etc/os: No such file") {
		t.Errorf("with the same upper folder: %q", out)
	}
	for file, want := range map[string]string{top + "/etc/motd": "top\n", below + "/etc/os": "os\n", upper + "/upper/file": "rw\n"} {
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
	cfg.ReadOnlyRoot = true
	cfg.Mounts = []sandbox.Mount{{Kind: sandbox.Tmpfs, Target: "/tmp"}}
	out, _ = script(t, pod, cfg, ": > /file; : > /etc/motd; echo > /dev/null; : > /dev/shm/x; echo writable > /tmp/x; cat /tmp/x")
	if strings.Count(out, "Read-only file system") != 2 || !strings.HasSuffix(out, "writable\n") {
		t.Errorf("read-only root: %q", out)
	}
	if err := os.RemoveAll(upper); err != nil {
		t.Errorf("the upper folder after the containers: %v", err)
	}
}
