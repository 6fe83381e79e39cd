package sandbox_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"svcproxy/sandbox"
	"svcproxy/sandbox/confine"
	"svcproxy/test/nstest"
)

// users are what the pods of these tests get: a range for root, and himself for an
// ordinary user.
func users(t testing.TB) sandbox.UserRange {
	t.Helper()
	ranges, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	if fields := strings.Fields(string(ranges)); fields[2] != "4294967295" {
		return sandbox.UserRange{}
	}
	return sandbox.UserRange{Base: 2147418112, Size: 65536}
}

// image makes a layer of these programs of the machine, with their libraries.
func image(t testing.TB, programs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range programs {
		file, err := exec.LookPath(p)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("ldd", file).Output()
		if err != nil && !bytes.Contains(out, []byte("not a dynamic")) {
			t.Fatalf("ldd %s: %v", file, err)
		}
		copyInto(t, file, filepath.Join(dir, "bin", filepath.Base(p)))
		for _, lib := range regexp.MustCompile(`/\S+`).FindAllString(string(out), -1) {
			copyInto(t, lib, filepath.Join(dir, lib))
		}
	}
	base := users(t).Base
	if base == 0 {
		return dir
	}
	if err := filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(name, base, base))
	}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func copyInto(t testing.TB, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func newPod(t testing.TB, node *sandbox.Node, cfg sandbox.PodConfig) *sandbox.Pod {
	t.Helper()
	if cfg.Pause == nil {
		cfg.Pause = &sandbox.PauseConfig{}
	}
	cfg.Pause.Users = users(t)
	if cfg.Name == "" {
		cfg.Name = "default/web"
	}
	if cfg.Addrs == nil {
		cfg.Addrs = addrs("10.244.0.3")
	}
	pod, err := node.AddPod(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func profile() confine.Profile {
	return confine.Profile{Capabilities: confine.DefaultCapabilities()}
}

// script runs a shell script as a container and returns what it printed and its status.
func script(t testing.TB, pod *sandbox.Pod, cfg sandbox.ContainerConfig, text string) (string, sandbox.ExitStatus) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cfg.Name, cfg.Stdout, cfg.Stderr = "main", w, w
	cfg.Args = []string{"sh", "-c", text}
	cfg.Env = []string{"PATH=/bin"}
	cfg.Profile = profile()
	c, err := pod.StartContainer(cfg)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	status := c.Status()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	return string(out), status
}

func TestProgramIsAloneInItsContainer(t *testing.T) {
	nstest.Require(t)
	layer := image(t, "sh", "ls", "cat", "mount", "hostname")
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	out, status := script(t, pod, sandbox.ContainerConfig{Layers: []string{layer}}, `
		echo pid $$; hostname; echo /proc/[0-9]*; ls -la / /dev /proc/self/fd; mount; cat /proc/self/cgroup; exit 7`)
	t.Logf("%s%+v", out, status)
}
