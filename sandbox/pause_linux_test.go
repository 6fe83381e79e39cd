package sandbox_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

func TestOrdinaryUserRunsContainers(t *testing.T) {
	t.Parallel()
	nstest.Unprivileged(t, "^(TestProgramIsAlone.*|TestProgramRuns.*|TestContainers.*|TestPodsReach.*|TestSysctls.*|TestExec.*|TestTerminals|"+
		"TestMounts.*|TestSymbolic.*|TestRootIs.*|TestNothingIsLeft.*|TestEverythingEnds.*|TestPodsOfOne.*)$")
}

// traces are what pods could leave behind, counted.
func traces(t testing.TB, node *sandbox.Node) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for name, pattern := range map[string]string{"files": "/proc/self/fd/*", "processes": "/proc/[0-9]*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		counts[name] = len(found)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	counts["mounts"] = strings.Count(string(mounts), "\n")
	handle, err := node.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	links, err := handle.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	routes, err := handle.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	counts["links"], counts["routes"] = len(links), len(routes)
	return counts
}

func TestNothingIsLeftOfAPod(t *testing.T) {
	nstest.Require(t)
	layer := image(t, "bash", "sleep")
	node := newNode(t, sandbox.NodeConfig{Name: "node"})
	ways := []func(*sandbox.Pod, *sandbox.Container) error{
		func(p *sandbox.Pod, _ *sandbox.Container) error { return p.Close() },
		func(p *sandbox.Pod, c *sandbox.Container) error { return errors.Join(c.Close(), p.Close(), p.Close()) },
		func(p *sandbox.Pod, c *sandbox.Container) error {
			pid := parentOf(t, c.PID())
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				return err
			}
			<-p.Done()
			if got := c.Status().Signal; got != syscall.SIGKILL {
				return fmt.Errorf("a program whose pause process was killed ended by signal %d", got)
			}
			if _, err := p.StartContainer(sandbox.ContainerConfig{Layers: []string{layer}, Args: []string{"bash"}}); err == nil || !strings.Contains(err.Error(), "pause process has ended") {
				return fmt.Errorf("start in a pod whose pause process has ended: %w", err)
			}
			return p.Close()
		},
	}
	round := func(i int) {
		pod := newPod(t, node, sandbox.PodConfig{Pause: &sandbox.PauseConfig{ShareProcesses: i%2 == 1}})
		c := sleeper(t, pod, layer, "bash", "-c", "sleep 1000 & sleep 1000")
		if _, err := c.Exec(sandbox.ExecConfig{Args: []string{"/bin/sleep", "1000"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := pod.StartContainer(sandbox.ContainerConfig{Layers: []string{layer}, Args: []string{"nothing"}}); err == nil {
			t.Error("started nothing")
		}
		if err := ways[i%len(ways)](pod, c); err != nil {
			t.Error(err)
		}
	}
	round(0)
	before := traces(t, node)
	for i := range nstest.Sized(6, 100) {
		round(i)
	}
	// The kernel removes addresses and routes of a dead namespace a little later.
	nstest.Eventually(t, 10*time.Second, func() error {
		if after := traces(t, node); !maps.Equal(before, after) {
			return fmt.Errorf("before %v, after %v", before, after)
		}
		return nil
	})
}

func parentOf(t testing.TB, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var state string
	var parent int
	if _, err := fmt.Sscan(string(stat[strings.LastIndex(string(stat), ")")+1:]), &state, &parent); err != nil {
		t.Fatal(err)
	}
	return parent
}

func TestEverythingEndsWithTheSupervisor(t *testing.T) {
	cmd := helper(t, "pods")
	cmd.Args = append(cmd.Args, image(t, "sleep"))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	lines := start(t, cmd)
	id := next(t, lines)
	if len(processesIn(id)) != 2 {
		t.Fatalf("%d processes in the pod, want pause and a program", len(processesIn(id)))
	}
	signal(t, cmd, syscall.SIGKILL)
	_ = cmd.Wait()
	nstest.Eventually(t, 10*time.Second, func() error {
		if left := processesIn(id); len(left) > 0 {
			return fmt.Errorf("processes %v outlived the supervisor", left)
		}
		return nil
	})
}

// podsHelper makes a pod with a container of its last argument, an image, prints the
// name of its network namespace and waits to be killed.
func podsHelper() error {
	node, err := sandbox.NewNode(sandbox.NodeConfig{Name: "node"})
	if err != nil {
		return err
	}
	pod, err := node.AddPod(sandbox.PodConfig{Name: "pod", Addrs: addrs("10.244.0.3"), Pause: &sandbox.PauseConfig{Users: usersHere()}})
	if err != nil {
		return err
	}
	_, err = pod.StartContainer(sandbox.ContainerConfig{Layers: os.Args[len(os.Args)-1:], Args: []string{"/bin/sleep", "1000"}})
	if err != nil {
		return err
	}
	id, err := pod.ID()
	if err != nil {
		return err
	}
	fmt.Println(id)
	_, err = os.Stdin.Read(make([]byte, 1))
	return err
}

func TestPodsOfOneNodeAreMadeAtOnce(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash")
	node := newNode(t, sandbox.NodeConfig{Name: "node"})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			pod, err := node.AddPod(sandbox.PodConfig{
				Name: fmt.Sprintf("default/p%d", i), Addrs: addrs(fmt.Sprintf("10.244.0.%d", 10+i)), Pause: &sandbox.PauseConfig{Users: users(t)},
			})
			if err != nil {
				t.Error(err)
				return
			}
			for j := range 3 {
				wg.Go(func() {
					c, err := pod.StartContainer(sandbox.ContainerConfig{Layers: []string{layer}, Args: []string{"/bin/bash", "-c", fmt.Sprintf("exit %d", 10*i+j)}, Profile: profile()})
					if err != nil {
						t.Error(err)
						return
					}
					if got := c.Status().Code; got != 10*i+j {
						t.Errorf("program %d of pod %d exited with %d", j, i, got)
					}
				})
			}
			if _, err := node.AddPod(sandbox.PodConfig{Name: pod.Name, Addrs: addrs("10.244.0.99"), Pause: &sandbox.PauseConfig{}}); err == nil {
				t.Error("two pods have one name")
			}
		})
	}
	wg.Wait()
	var closing sync.WaitGroup
	for _, pod := range node.Pods() {
		for range 2 {
			closing.Go(func() {
				if err := pod.Close(); err != nil {
					t.Error(err)
				}
				if node.Pod(pod.Name) != nil {
					t.Errorf("%s is still there", pod.Name)
				}
			})
		}
	}
	closing.Wait()
}

func TestCloseEndsAStartUnderWay(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	node := newNode(t, sandbox.NodeConfig{Name: "node"})
	layer := image(t, "bash")
	for range nstest.Sized(5, 50) {
		pod := newPod(t, node, sandbox.PodConfig{})
		started := make(chan error)
		go func() {
			c, err := pod.StartContainer(sandbox.ContainerConfig{Layers: []string{layer}, Args: []string{"/bin/bash"}, Profile: profile()})
			if err == nil {
				<-c.Done()
			}
			started <- err
		}()
		if err := pod.Close(); err != nil {
			t.Error(err)
		}
		<-started // with an error or without, but it returns
	}
}

func TestPauseIsSmallAndAlone(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	node := newNode(t, sandbox.NodeConfig{Name: "node"})
	pod := newPod(t, node, sandbox.PodConfig{})
	c := sleeper(t, pod, image(t, "sleep"), "sleep", "1000")
	dir := fmt.Sprintf("/proc/%d/", parentOf(t, c.PID()))
	names, err := os.ReadDir(dir + "root")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range names {
		if !slices.Contains([]string{"proc", "sys", "dev", "shm", "stage", "lib", "lib64", "usr"}, entry.Name()) {
			t.Errorf("pause sees %s", entry.Name())
		}
	}
	files, err := os.ReadDir(dir + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		to, err := os.Readlink(dir + "fd/" + file.Name())
		if err == nil && to != "/dev/null" && !strings.HasPrefix(to, "socket:") && !strings.HasPrefix(to, "anon_inode:") {
			t.Errorf("pause has %s open", to)
		}
	}
	if info, err := os.Stat(dir + "fd/0"); err != nil || info.IsDir() {
		t.Errorf("pause's stdin: %v", err)
	}
	t.Log(memory(t, dir))
}

func memory(t testing.TB, dir string) string {
	t.Helper()
	rollup, err := os.ReadFile(dir + "smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		t.Fatal(err)
	}
	return string(rollup) + string(status[strings.Index(string(status), "VmPeak"):])
}

func TestProgramIsSealed(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	if _, err := os.OpenFile("/proc/self/exe", os.O_WRONLY, 0); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the program was opened for writing: %v", err)
	}
	// While it runs, that is so for any program; later it is not.
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	err = os.Chmod("/proc/self/exe", 0o755)
	if seals, failed := unix.FcntlInt(program.Fd(), unix.F_GET_SEALS, 0); failed == nil {
		if seals&unix.F_SEAL_WRITE == 0 {
			t.Errorf("the program in memory has seals %#x", seals)
		}
	} else if !errors.Is(err, syscall.EROFS) {
		t.Errorf("chmod of the program through /proc: %v, want a read-only file system", err)
	}
}

func TestProgramThatIsGoneFromItsPathIsSealedToo(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	file := filepath.Join(t.TempDir(), "copy")
	copyInto(t, "/proc/self/exe", file)
	program, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), fmt.Sprintf("/proc/self/fd/%d", program.Fd()), "-test.v", "-test.run=^(TestProgramIsSealed|TestExecErrors)$")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "\n--- PASS") != 2 {
		t.Errorf("%v\n%s", err, out)
	}
}
