package sandbox_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"svcproxy/sandbox"
	"svcproxy/sandbox/confine"
	"svcproxy/test/nstest"
)

// users are what the pods of these tests get: a range for root, and himself for an
// ordinary user.
func users(t testing.TB) sandbox.UserRange {
	t.Helper()
	return usersHere()
}

func usersHere() sandbox.UserRange {
	ranges, err := os.ReadFile("/proc/self/uid_map")
	if fields := strings.Fields(string(ranges)); err != nil || fields[2] != "4294967295" {
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
	cfg.Args = []string{"bash", "-c", text}
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
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash", "ls", "cat")
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	out, status := script(t, pod, sandbox.ContainerConfig{Layers: []string{layer}}, fmt.Sprintf(`
		echo I am $$
		echo /proc/[0-9]*
		kill -0 %d || kill -9 %[1]d
		cat /proc/sys/kernel/hostname /proc/self/cgroup
		ls /
		ls -l /proc/self/fd
		exit 7`, os.Getpid()))
	if status != (sandbox.ExitStatus{Code: 7}) {
		t.Errorf("status %+v, want exit code 7", status)
	}
	for _, want := range []string{
		"I am 1\n", "\n/proc/1\n", "No such process", "\nweb\n", "::/\n", "\nbin\ndev\nlib\nlib64\nproc\nsys\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	for _, fd := range regexp.MustCompile(`(?m)(\d+) -> (.*)$`).FindAllStringSubmatch(out, -1) {
		ours := map[string]string{"0": "/dev/null", "1": "pipe:", "2": "pipe:", "3": "/proc/"}[fd[1]]
		if ours == "" || !strings.HasPrefix(fd[2], ours) {
			t.Errorf("file %s is open: %s", fd[1], fd[2])
		}
	}
}

func TestNothingOfTheHostIsMounted(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash", "cat")
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	out, _ := script(t, pod, sandbox.ContainerConfig{Layers: []string{layer}}, "cat /proc/self/mountinfo")
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		root, target := fields[3], fields[4]
		switch {
		case root == "/", strings.HasPrefix(target, "/proc/"), root == strings.TrimPrefix(target, "/dev"):
		default:
			t.Errorf("a part of another tree is mounted: %s", line)
		}
		if strings.Contains(line, "shared:") || strings.Contains(line, "master:") {
			t.Errorf("exchanges mounts with others: %s", line)
		}
	}
}

func TestContainersOfAPodShareNetworkAndNameOnly(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash", "cat", "ls", "sleep")
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{Pause: &sandbox.PauseConfig{Hostname: "twins"}})
	one, other := sleeper(t, pod, layer, "/bin/sleep", "1000"), sleeper(t, pod, layer, "/bin/sleep", "1000")
	for ns, shared := range map[string]bool{"net": true, "uts": true, "ipc": true, "user": true, "pid": false, "mnt": false} {
		if a, b := namespaceOf(t, one, ns), namespaceOf(t, other, ns); (a == b) != shared {
			t.Errorf("namespaces are %s and %s", a, b)
		}
	}
	const look = "cat /proc/sys/kernel/hostname; ls /dev/shm /mine; echo /proc/[0-9]*; : > /dev/shm/ours; : > /mine"
	script(t, pod, sandbox.ContainerConfig{Layers: []string{layer}}, look)
	out, _ := script(t, pod, sandbox.ContainerConfig{Layers: []string{layer}}, look)
	if !strings.HasPrefix(out, "twins\n") || !strings.Contains(out, "ours") || strings.Contains(out, "/mine\n") {
		t.Errorf("hostname and shared memory are the pod's, files are not:\n%s", out)
	}
}

func namespaceOf(t testing.TB, c *sandbox.Container, kind string) string {
	t.Helper()
	id, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.PID(), kind))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestContainersMayShareProcesses(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash", "cat", "ls", "sleep")
	node := newNode(t, sandbox.NodeConfig{Name: "node"})
	pod := newPod(t, node, sandbox.PodConfig{Pause: &sandbox.PauseConfig{ShareProcesses: true}})
	first := sleeper(t, pod, layer, "/bin/bash", "-c", "sleep 1001 & sleep 1002 & wait")
	second := sleeper(t, pod, layer, "/bin/sleep", "1003")
	nstest.Eventually(t, 10*time.Second, func() error {
		out, status := script(t, pod, sandbox.ContainerConfig{Layers: []string{layer}},
			`echo $$; cat /proc/1/comm /proc/*/cmdline; [ $$ != 1 ] && kill -TERM 1 && kill -SEGV 1; ls /proc/1/root /proc/1/exe`)
		if refused := strings.Count(out, "Permission denied"); refused != 2 {
			t.Errorf("looked into the pause process: %s", out)
		}
		for _, want := range []string{"svcproxy-pause", "1001", "1002", "1003"} {
			if !strings.Contains(strings.ReplaceAll(out, "\x00", " "), want) {
				return fmt.Errorf("no %q in %q (%+v)", want, out, status)
			}
		}
		return nil
	})
	exec, err := first.Exec(sandbox.ExecConfig{Args: []string{"/bin/sleep", "1004"}, Profile: profile()})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if got := exec.Status().Signal; got != syscall.SIGKILL {
		t.Errorf("a program in a container that was closed ended by signal %d", got)
	}
	out, _ := script(t, pod, sandbox.ContainerConfig{Layers: []string{layer}}, "cat /proc/*/cmdline")
	if strings.Contains(out, "1001") || !strings.Contains(out, "1003") {
		t.Errorf("after one of two containers was closed: %q", out)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

// sleeper starts a program that goes on.
func sleeper(t testing.TB, pod *sandbox.Pod, layer string, args ...string) *sandbox.Container {
	t.Helper()
	c, err := pod.StartContainer(sandbox.ContainerConfig{
		Name: "sleeper", Layers: []string{layer}, Args: args, Env: []string{"PATH=/bin"}, Profile: profile(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPodsReachEachOther(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash", "ip", "cat")
	node := newNode(t, sandbox.NodeConfig{Name: "node", MTU: 1400})
	a := newPod(t, node, sandbox.PodConfig{Name: "default/a", Addrs: podAddrs("10.244.0.3", "fd00:10:244::3")})
	b := newPod(t, node, sandbox.PodConfig{Name: "default/b", Addrs: podAddrs("10.244.0.4", "fd00:10:244::4")})
	for _, addr := range b.Addrs {
		l, err := b.Listen(t.Context(), "tcp", netip.AddrPortFrom(addr, 80).String())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s here\n", addr)
				c.Close()
			}
		}()
		t.Cleanup(func() { l.Close() })
	}
	out, status := script(t, a, sandbox.ContainerConfig{Layers: []string{layer}}, `
		ip -o address show eth0; ip route; ip -6 route; ip -o link
		cat < /dev/tcp/10.244.0.4/80
		[ -d /proc/sys/net/ipv6 ] && cat < /dev/tcp/fd00:10:244::4/80
		cat /proc/sys/net/ipv4/conf/eth0/accept_local`)
	want := []string{"10.244.0.3/32", "default via 10.244.0.1", "mtu 1400", "10.244.0.4 here\n", "lo:", "eth0@"}
	if sandbox.HasIPv6() {
		want = append(want, "fd00:10:244::3/128", "default via fd00:10:244::1", "fd00:10:244::4 here\n")
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("no %q in (%+v)\n%s", w, status, out)
		}
	}
}

func podAddrs(v4, v6 string) []netip.Addr {
	if sandbox.HasIPv6() {
		return addrs(v4, v6)
	}
	return addrs(v4)
}

func TestSysctlsAreThePods(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	node := newNode(t, sandbox.NodeConfig{Name: "node"})
	pod := newPod(t, node, sandbox.PodConfig{Pause: &sandbox.PauseConfig{Sysctls: map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "80", "net.ipv4.conf.eth0.arp_ignore": "1", "kernel.msgmax": "4096", "fs.mqueue.msg_max": "11",
	}}})
	out, _ := script(t, pod, sandbox.ContainerConfig{Layers: []string{image(t, "bash", "cat")}}, `cd /proc/sys &&
		cat net/ipv4/ip_unprivileged_port_start net/ipv4/conf/eth0/arp_ignore kernel/msgmax fs/mqueue/msg_max`)
	if out != "80\n1\n4096\n11\n" {
		t.Errorf("the pod has %q", out)
	}
	for name, want := range map[string]string{
		"kernel.panic": "namespaces", "net/../kernel.panic": "namespaces", "vm.overcommit_memory": "namespaces",
		"kernel.shmfoo": "kernel.shmfoo", "net.ipv4.nothing": "net.ipv4.nothing",
	} {
		_, err := node.AddPod(sandbox.PodConfig{Name: "default/bad", Addrs: addrs("10.244.0.9"), Pause: &sandbox.PauseConfig{
			Users: users(t), Sysctls: map[string]string{name: "1"},
		}})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
			t.Errorf("sysctl %s: %v", name, err)
		}
	}
}

func TestErrorsOfAStartNameWhatAndWhere(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash")
	base := users(t).Base
	for name, content := range map[string]string{"text": "no program", "script": "#!/no/such/interpreter\n"} {
		if err := errors.Join(
			os.WriteFile(filepath.Join(layer, "bin", name), []byte(content), 0o755),
			os.Lchown(filepath.Join(layer, "bin", name), base, base),
			os.WriteFile(filepath.Join(layer, "bin", "data"), nil, 0o644),
		); err != nil {
			t.Fatal(err)
		}
	}
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	missing := filepath.Join(t.TempDir(), "missing")
	for name, c := range map[string]struct {
		cfg  sandbox.ContainerConfig
		code int
		want string
	}{
		"no such program":     {sandbox.ContainerConfig{Args: []string{"curl"}}, sandbox.ExitNotFound, `"curl": not found in $PATH (/bin)`},
		"no such path":        {sandbox.ContainerConfig{Args: []string{"/usr/bin/curl"}}, sandbox.ExitNotFound, "program /usr/bin/curl: no such file"},
		"no program at all":   {sandbox.ContainerConfig{Args: []string{}}, 0, "no program"},
		"not executable":      {sandbox.ContainerConfig{Args: []string{"data"}}, sandbox.ExitNotExecutable, "/bin/data: not executable"},
		"a folder":            {sandbox.ContainerConfig{Args: []string{"/bin"}}, sandbox.ExitNotExecutable, "/bin: is a folder"},
		"not a program":       {sandbox.ContainerConfig{Args: []string{"text"}}, sandbox.ExitNotExecutable, "/bin/text: not a program"},
		"no interpreter":      {sandbox.ContainerConfig{Args: []string{"script"}}, sandbox.ExitNotExecutable, "/bin/script: the interpreter"},
		"no working folder":   {sandbox.ContainerConfig{Args: []string{"bash"}, Dir: "/bin/bash"}, 125, "working folder /bin/bash"},
		"no layers":           {sandbox.ContainerConfig{Args: []string{"bash"}, Layers: []string{}}, 0, "no image layers"},
		"missing layer":       {sandbox.ContainerConfig{Args: []string{"bash"}, Layers: []string{missing}}, 0, missing},
		"missing upper":       {sandbox.ContainerConfig{Args: []string{"bash"}, Upper: missing}, 0, missing},
		"missing source":      {sandbox.ContainerConfig{Args: []string{"bash"}, Mounts: []sandbox.Mount{{Source: missing, Target: "/data"}}}, 0, "mount /data: open " + missing},
		"mount over /":        {sandbox.ContainerConfig{Args: []string{"bash"}, Mounts: []sandbox.Mount{{Source: "/tmp", Target: "/x/.."}}}, 0, "mount /x/.."},
		"mount over /proc":    {sandbox.ContainerConfig{Args: []string{"bash"}, Mounts: []sandbox.Mount{{Source: "/tmp", Target: "/proc/self"}}}, 0, "mount /proc/self"},
		"folder over file":    {sandbox.ContainerConfig{Args: []string{"bash"}, Mounts: []sandbox.Mount{{Source: "/tmp", Target: "/bin/bash"}}}, 125, "mount /bin/bash"},
		"file over folder":    {sandbox.ContainerConfig{Args: []string{"bash"}, Mounts: []sandbox.Mount{{Source: "/proc/self/exe", Target: "/bin"}}}, 125, "mount /bin: the source is a file"},
		"unknown capability":  {sandbox.ContainerConfig{Args: []string{"bash"}, Profile: confine.Profile{Capabilities: []string{"CAP_FLY"}}}, 0, "CAP_FLY"},
		"user without number": {sandbox.ContainerConfig{Args: []string{"bash"}, Profile: confine.Profile{UID: 1 << 20}}, 125, "UID"},
	} {
		if c.cfg.Layers == nil {
			c.cfg.Layers = []string{layer}
		}
		c.cfg.Name, c.cfg.Env = "main", []string{"PATH=/bin"}
		_, err := pod.StartContainer(c.cfg)
		var failed *sandbox.StartError
		code := 0
		if errors.As(err, &failed) {
			code = failed.Code
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "default/web: container main") || code != c.code {
			t.Errorf("%s: code %d: %v", name, code, err)
		}
	}
}

func TestProgramRunsAsItsUser(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash", "id", "ls")
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	user, want := profile(), "uid=0 gid=0 groups=0\n"
	if users(t).Size > 0 {
		user.UID, user.GID, user.Groups = 1000, 1001, []int{1002, 65535}
		want = "uid=1000 gid=1001 groups=1001,1002,65535\n"
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, err := pod.StartContainer(sandbox.ContainerConfig{
		Name: "main", Layers: []string{layer}, Args: []string{"bash", "-c", "id; echo again > /dev/stdout; echo error > /dev/stderr"},
		Env: []string{"PATH=/bin"}, Profile: user, Stdout: w, Stderr: w,
	})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil || string(out) != want+"again\nerror\n" {
		t.Errorf("%v: %q, want %q", err, out, want)
	}
	if got := c.Status(); got.Code != 0 {
		t.Errorf("%+v", got)
	}
}
