package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// Pods come and go in numbers, quickly, and leave nothing: no open file, mount, process, cgroup, folder or goroutine.
func TestManyPodsLeaveNothing(t *testing.T) {
	n := newNode(t)
	round := func(pods int) (up, down time.Duration) {
		begin := time.Now()
		for i := range pods {
			n.apply(shell(idle, func(p *v1.Pod) {
				p.Name = fmt.Sprint("web-", i)
				p.Status.PodIPs[0].IP = fmt.Sprintf("10.244.0.%d", i+2)
				p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}}}
			}))
		}
		nstest.Eventually(t, time.Minute, func() error {
			for _, p := range n.k.Pods() {
				if !podReady(p) {
					return fmt.Errorf("pod %s: %s %v", p.Name, whyNotReady(p), n.k.Events(nameOf(p)))
				}
			}
			return nil
		})
		up = time.Since(begin)
		begin = time.Now()
		errs := make(chan error, pods)
		for i := range pods {
			go func() {
				name := types.NamespacedName{Namespace: "default", Name: fmt.Sprint("web-", i)}
				if i%2 == 0 {
					_, err := n.k.Exec(name, "", sandbox.ExecConfig{Args: []string{"sleep", "100"}})
					n.ok(err)
				}
				errs <- n.k.DeleteWithin(t.Context(), name, 0)
			}()
		}
		for range pods {
			n.ok(<-errs)
		}
		return up, time.Since(begin)
	}
	round(3)
	before := census(t)
	up, down := round(nstest.Sized(10, 100))
	t.Logf("up in %v, down in %v", up, down)
	nstest.Eventually(t, 5*time.Second, func() error {
		if after := census(t); after != before {
			return fmt.Errorf("before %+v, after %+v", before, after)
		}
		return nil
	})
}

// counts are of this program.
type counts struct{ Files, Goroutines, Mounts, Processes, Cgroups int }

func census(t *testing.T) counts {
	t.Helper()
	var c counts
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	c.Files = len(files)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	c.Mounts = strings.Count(string(mounts), "\n")
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if pid := filepath.Base(p); status(atoi(t, pid), "PPid") != "" {
			c.Processes++
		}
	}
	c.Goroutines = runtime.NumGoroutine()
	cgroups, err := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/svcproxy-kubelet-test-%d-*/*", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	c.Cgroups = len(cgroups)
	return c
}

func atoi(t *testing.T, s string) (n int) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
