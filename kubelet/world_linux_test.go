package kubelet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"svcproxy/sandbox"
	"svcproxy/sandbox/cgroup"
	"svcproxy/sandbox/image"
	"svcproxy/test/nstest"
)

// node is a kubelet on a real kernel.
type node struct {
	testing.TB
	k    *Kubelet
	root bool // cgroups and users are to be had
}

// newNode makes one; all of it is closed, and must be gone, at the end of the test.
func newNode(t testing.TB, change ...func(*Config)) *node {
	t.Helper()
	nstest.Require(t)
	n := &node{TB: t, root: isRoot(t)}
	machine, err := sandbox.NewNode(sandbox.NodeConfig{Name: "node"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.ok(machine.Close()) })
	cfg := Config{Node: machine, Dir: t.TempDir()}
	if n.root {
		cfg.Users = sandbox.UserRange{Base: 2147418112, Size: 65536}
		if cfg.Cgroups, err = cgroup.Open(fmt.Sprintf("svcproxy-kubelet-test-%d-%d", os.Getpid(), time.Now().UnixNano())); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.ok(cfg.Cgroups.Close()) })
	}
	if cfg.Images, err = image.Open(image.Options{Dir: t.TempDir(), UIDBase: cfg.Users.Base}); err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(&cfg)
	}
	if n.k, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.ok(n.k.Close())
		if left, err := os.ReadDir(filepath.Join(cfg.Dir, "pods")); err != nil || len(left) > 0 {
			t.Errorf("left over: %v %v", left, err)
		}
	})
	return n
}

func isRoot(t testing.TB) bool {
	t.Helper()
	ranges, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(ranges))[2] == "4294967295"
}

func (n *node) ok(err error) {
	n.Helper()
	if err != nil {
		n.Error(err)
	}
}

func (n *node) apply(pod *v1.Pod) {
	n.Helper()
	if err := n.k.Apply(pod); err != nil {
		n.Fatal(err)
	}
}

// until waits until the pod's status is as wanted.
func (n *node) until(what string, wanted func(v1.PodStatus) bool) v1.PodStatus {
	n.Helper()
	var last v1.PodStatus
	nstest.Eventually(n, 20*time.Second, func() error {
		pod, ok := n.k.Pod(podName)
		if !ok {
			return errors.New("no such pod")
		}
		if last = pod.Status; !wanted(last) {
			return fmt.Errorf("not %s: %s\n%v\n%v", what, last.String(), n.k.Events(podName), n.log("", false))
		}
		return nil
	})
	return last
}

func (n *node) untilReady() v1.PodStatus {
	n.Helper()
	return n.until("ready", func(s v1.PodStatus) bool { return podReady(&v1.Pod{Status: s}) })
}

// untilUp waits until the script idle obeys.
func (n *node) untilUp() {
	n.Helper()
	n.untilReady()
	nstest.Eventually(n, 5*time.Second, func() error {
		if log := n.log("", false); !strings.Contains(log, "up\n") {
			return fmt.Errorf("log %q", log)
		}
		return nil
	})
}

// log is the text of a container's log, without times.
func (n *node) log(container string, previous bool) string {
	path, err := n.k.Log(podName, container, previous)
	if err != nil {
		return err.Error()
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		l, err := ParseLogLine(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return err.Error()
		}
		out.WriteString(l.Text + "\n")
	}
	return out.String()
}

// run runs a command in the pod's first container and returns what it printed and its exit code.
func (n *node) run(args ...string) (string, int) {
	n.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		n.Fatal(err)
	}
	defer r.Close()
	p, err := n.k.Exec(podName, "", sandbox.ExecConfig{Args: args, Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		n.Fatal(err)
	}
	var out bytes.Buffer
	_, err = io.Copy(&out, r)
	n.ok(err)
	return out.String(), p.Status().Code
}

// shell is a pod whose container runs a script.
func shell(script string, change ...func(*v1.Pod)) *v1.Pod {
	return aPod(append([]func(*v1.Pod){func(p *v1.Pod) {
		c := &p.Spec.Containers[0]
		c.Image, c.Command = "host:bash,ls,cat,id,sleep,stat,touch,mkdir,hostname,rm,head,tail,env,tee,readlink", []string{"bash", "-c", script}
		grace := int64(3)
		p.Spec.TerminationGracePeriodSeconds = &grace
	}}, change...)...)
}

// idle obeys SIGTERM, which a PID 1 without a handler would not.
const idle = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
