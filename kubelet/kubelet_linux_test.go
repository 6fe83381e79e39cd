package kubelet

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

func TestContainerSeesWhatItsSpecSays(t *testing.T) {
	n := newNode(t, func(c *Config) { c.DNS.Servers = append(c.DNS.Servers, c.Node.Addrs[0]) })
	n.apply(shell(idle, func(p *v1.Pod) {
		c := &p.Spec.Containers[0]
		c.Env = []v1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)$(C)$$(A)"}, {Name: "NODE", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}}}
		c.WorkingDir = "/somewhere"
	}))
	n.untilReady()
	out, code := n.run("bash", "-c", `echo $A $B $NODE $HOSTNAME $PWD; hostname; cat /etc/resolv.conf; tail -n 1 /etc/hosts; ls `+accountFolder+`; cat `+accountFolder+`/namespace; echo; id -u; echo $$ `)
	want := "1 1$(C)$(A) node web /somewhere\nweb\nsearch default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 172.18.0.2\noptions ndots:5\n" +
		"10.244.0.2\tweb\nca.crt\nnamespace\ntoken\ndefault\n0\n"
	if code != 0 || !strings.HasPrefix(out, want) {
		t.Errorf("exit code %d, printed\n%s\nwant\n%s", code, out, want)
	}
}

func TestVolumes(t *testing.T) {
	shared := t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "file"), []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, func(c *Config) { c.AllowHostPaths = []string{shared} })
	conf := &v1.ConfigMap{Data: map[string]string{"a": "one", "b": "two"}}
	conf.Namespace, conf.Name = "default", "conf"
	n.k.SetFiles([]*v1.ConfigMap{conf}, nil, nil)
	n.apply(shell(idle, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{
			{Name: "empty", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
			{Name: "memory", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: resource.NewQuantity(1<<20, resource.BinarySI)}}},
			{Name: "host", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: shared}}},
			{Name: "conf", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}}}},
		}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{
			{Name: "empty", MountPath: "/empty"}, {Name: "empty", MountPath: "/sub", SubPath: "x/y"}, {Name: "memory", MountPath: "/memory"},
			{Name: "host", MountPath: "/host", ReadOnly: true}, {Name: "conf", MountPath: "/conf"}, {Name: "conf", MountPath: "/one", SubPath: "a"},
		}
	}))
	n.untilReady()
	out, _ := n.run("bash", "-c", `cat /host/file /conf/a /one; echo; touch /host/new /conf/new; echo hi >/empty/f; cat /empty/f; ls /empty/x; touch /sub/z /memory/f; ls /empty/x/y; ls /conf
		head -c 2000000 /dev/zero >/memory/big`)
	for _, want := range []string{"of the hostoneone\n", "touch: cannot touch '/host/new': Read-only file system", "touch: cannot touch '/conf/new': Read-only file system", "hi\ny\nz\na\nb\n", "No space left"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	conf = conf.DeepCopy()
	conf.Data = map[string]string{"a": "changed", "c": "three"}
	n.k.SetFiles([]*v1.ConfigMap{conf}, nil, nil)
	out, _ = n.run("bash", "-c", "cat /conf/a /conf/c /one; echo; ls /conf")
	if want := "changedthreeone\na\nc\n"; out != want {
		t.Errorf("after the change %q, want %q", out, want)
	}
}

func TestHostPathIsRefusedByTheFlagsName(t *testing.T) {
	n := newNode(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/etc", link); err != nil {
		t.Fatal(err)
	}
	n.k.cfg.AllowHostPaths = []string{filepath.Dir(link)}
	for _, path := range []string{"/etc", link, link + "/passwd", "/"} {
		err := n.k.Apply(shell(idle, func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path}}}}
		}))
		if err == nil || !strings.Contains(err.Error(), "spec.volumes[0].hostPath") || !strings.Contains(err.Error(), "--allow-host-path") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestRestartAndLogs(t *testing.T) {
	n := newNode(t)
	n.apply(shell(`echo out; echo err >&2; echo -n last; echo said >/dev/termination-log; exit 3`, func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyOnFailure }))
	s := n.until("restarted and ended", func(s v1.PodStatus) bool {
		return len(s.ContainerStatuses) > 0 && s.ContainerStatuses[0].RestartCount == 1 && s.ContainerStatuses[0].State.Waiting != nil &&
			s.ContainerStatuses[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	last := s.ContainerStatuses[0].LastTerminationState.Terminated
	if last.ExitCode != 3 || last.Reason != "Error" || last.Message != "said\n" {
		t.Errorf("status %+v", s.ContainerStatuses[0])
	}
	for _, previous := range []bool{false, true} {
		lines := strings.Split(strings.TrimSpace(n.log("", previous)), "\n")
		slices.Sort(lines) // two streams
		if got := strings.Join(lines, " "); got != "err last out" {
			t.Errorf("previous %v: log %q", previous, got)
		}
	}
}

func TestProgramThatIsNotThere(t *testing.T) {
	n := newNode(t)
	n.apply(shell("", func(p *v1.Pod) {
		p.Spec.Containers[0].Command = []string{"/no/such"}
		p.Spec.RestartPolicy = v1.RestartPolicyNever
	}))
	s := n.until("failed", func(s v1.PodStatus) bool { return s.Phase == v1.PodFailed })
	if e := s.ContainerStatuses[0].State.Terminated; e.Reason != "StartError" || e.ExitCode != 128 || !strings.Contains(e.Message, "/no/such") {
		t.Errorf("state %+v", e)
	}
}

func TestGracefulEndOnAKernel(t *testing.T) {
	var order []string
	n := newNode(t)
	n.k.cfg.Withdraw = func(context.Context, *v1.Pod) error {
		order = append(order, "withdraw", n.log("", false))
		return nil
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	n.k.cfg.AllowHostPaths = []string{dir}
	n.apply(shell("trap 'echo TERM >>/x/log; exit 0' TERM; while :; do sleep 0.05; done", func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: dir}}}}
		c := &p.Spec.Containers[0]
		c.VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/x"}}
		c.Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"bash", "-c", "echo preStop >>/x/log"}}}}
	}))
	n.untilReady()
	n.ok(n.k.Delete(t.Context(), podName))
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	n.ok(err)
	if string(log) != "preStop\nTERM\n" || len(order) == 0 {
		t.Errorf("log %q, order %v", log, order)
	}
}

func TestProbesOnAKernel(t *testing.T) {
	n := newNode(t)
	n.apply(shell(`touch /alive; `+idle, func(p *v1.Pod) {
		c := &p.Spec.Containers[0]
		c.ReadinessProbe = &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"cat", "/ready"}}}}
		c.LivenessProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"cat", "/alive"}}}}
	}))
	n.until("running, not ready", func(s v1.PodStatus) bool {
		return s.Phase == v1.PodRunning && !s.ContainerStatuses[0].Ready && *s.ContainerStatuses[0].Started
	})
	n.run("touch", "/ready")
	n.untilReady()
	n.run("rm", "/alive")
	s := n.until("restarted", func(s v1.PodStatus) bool { return s.ContainerStatuses[0].RestartCount >= 1 })
	if last := s.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || !strings.Contains(last.Message, "failed liveness probe, will be restarted: cat: /alive: No such file") {
		t.Errorf("last state %+v", last)
	}
}

func TestTCPAndHTTPProbesComeFromTheNode(t *testing.T) {
	n := newNode(t)
	n.apply(shell(idle, func(p *v1.Pod) {
		p.Spec.Containers[0].Ports = []v1.ContainerPort{{Name: "web", ContainerPort: 8080}}
		p.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("web")}}}
	}))
	n.until("running", func(s v1.PodStatus) bool { return s.Phase == v1.PodRunning })
	pod := n.k.cfg.Node.Pod("default/web")
	l, err := pod.Listen(t.Context(), "tcp", "10.244.0.2:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan string, 100)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			asked <- line + " from " + conn.RemoteAddr().(*net.TCPAddr).IP.String()
			fmt.Fprint(conn, "HTTP/1.1 204 No Content\r\n\r\n")
			conn.Close()
		}
	}()
	n.untilReady()
	if got, want := <-asked, "GET /healthz HTTP/1.1\r\n from 10.244.0.1"; got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
}

func TestOOMKilledOnAKernel(t *testing.T) {
	const asleep = "exec sleep infinity" // and needs no more memory
	n := newNode(t)
	if !n.root {
		err := n.k.Apply(shell(asleep, memory("64Mi")))
		if err == nil || !strings.Contains(err.Error(), "spec.containers[0].resources.limits") {
			t.Errorf("error %v", err)
		}
		return
	}
	n.apply(shell(asleep, memory("64Mi")))
	n.untilReady()
	if _, code := n.run("ls", "/"); code != 0 {
		t.Fatalf("ls with 64 MiB: exit code %d", code)
	}
	n.ok(n.k.SetLimits(podName, "", v1.ResourceList{v1.ResourceMemory: resource.MustParse("10"), v1.ResourceCPU: resource.MustParse("500m")}))
	if out, code := n.run("ls", "/"); code != 137 {
		t.Errorf("ls with 10 bytes: exit code %d\n%s", code, out)
	}
	nstest.Eventually(t, 5*time.Second, func() error {
		for _, e := range n.k.Events(podName) {
			if e.Reason == "OOMKilled" && strings.Contains(e.Message, "container main of pod default/web was killed for want of memory: memory limit 10") {
				return nil
			}
		}
		return fmt.Errorf("events %v", n.k.Events(podName))
	})
	n.ok(n.k.SetLimits(podName, "", v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}))
	nstest.Eventually(t, 5*time.Second, func() error {
		if r, err := n.k.runOf(podName, ""); err != nil || r == nil {
			return err
		}
		if out, code := n.run("ls", "/"); code != 0 {
			return fmt.Errorf("exit code %d: %s", code, out)
		}
		return nil
	})
}

func TestExecWithATerminal(t *testing.T) {
	n := newNode(t)
	n.apply(shell(idle))
	n.untilReady()
	p, err := n.k.Exec(podName, "", sandbox.ExecConfig{Args: []string{"bash", "-c", "read x; echo got $x $TERM; exit 5"}, Terminal: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Terminal().Close()
	fmt.Fprintln(p.Terminal(), "word")
	out, _ := io.ReadAll(p.Terminal())
	if code := p.Status().Code; code != 5 || !strings.Contains(string(out), "got word xterm") {
		t.Errorf("exit code %d, printed %q", code, out)
	}
}

func TestAttachReplaysAndFeeds(t *testing.T) {
	n := newNode(t)
	n.apply(shell("echo early; read x; echo got $x; read y; exit 0", func(p *v1.Pod) {
		p.Spec.Containers[0].Stdin, p.Spec.Containers[0].StdinOnce = true, true
		p.Spec.RestartPolicy = v1.RestartPolicyNever
	}))
	n.untilReady()
	var out strings.Builder
	if err := n.k.Attach(t.Context(), podName, "", Streams{Stdin: strings.NewReader("word\nend\n"), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "early\ngot word\n" {
		t.Errorf("got %q", out.String())
	}
	n.until("succeeded", func(s v1.PodStatus) bool { return s.Phase == v1.PodSucceeded })
}

func TestDialReachesThePodsLoopback(t *testing.T) {
	n := newNode(t)
	n.apply(shell(idle))
	n.untilReady()
	l, err := n.k.cfg.Node.Pod("default/web").Listen(t.Context(), "tcp", "127.0.0.1:99")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := n.k.Dial(t.Context(), podName, 99)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := n.k.Dial(t.Context(), podName, 98); err == nil {
		t.Error("a port that nobody listens on was reached")
	}
}

func TestRestartOnAKernelKeepsThePodsPlace(t *testing.T) {
	n := newNode(t)
	n.apply(shell(idle))
	n.untilUp()
	before, err := n.k.cfg.Node.Pod("default/web").ID()
	n.ok(err)
	n.ok(n.k.Restart(t.Context(), podName))
	after, err := n.k.cfg.Node.Pod("default/web").ID()
	n.ok(err)
	if before != after {
		t.Errorf("network namespace %s became %s", before, after)
	}
	if s := n.untilReady(); s.ContainerStatuses[0].RestartCount != 1 {
		t.Errorf("restarts %d", s.ContainerStatuses[0].RestartCount)
	}
	if !strings.Contains(n.log("", true), "bye") {
		t.Errorf("the old run did not get SIGTERM: %q", n.log("", true))
	}
}

func TestOrdinaryUserRunsPods(t *testing.T) {
	nstest.Unprivileged(t, "^(TestContainerSees.*|TestVolumes|TestRestartAndLogs|TestGracefulEndOnAKernel|TestOOMKilledOnAKernel|TestInspect|TestExec.*|TestAttach.*)$")
}

func TestInspect(t *testing.T) {
	n := newNode(t)
	n.apply(shell(idle, func(p *v1.Pod) {
		if n.root {
			memory("64Mi")(p)
		}
		p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/v"}}
	}))
	n.untilUp()
	got, err := n.k.Inspect(podName)
	if err != nil {
		t.Fatal(err)
	}
	inside, _ := n.run("readlink", "/proc/self/ns/net", "/proc/self/ns/mnt", "/proc/self/ns/pid", "/proc/self/ns/user")
	if len(got.Containers) != 1 || got.Pause == 0 {
		t.Fatalf("got %+v", got)
	}
	c := got.Containers[0]
	if want := strings.Join([]string{got.Namespaces["net"], c.Namespaces["mnt"], c.Namespaces["pid"], got.Namespaces["user"], ""}, "\n"); inside != want {
		t.Errorf("namespaces %q, inside %q", want, inside)
	}
	if !slices.ContainsFunc(c.Mounts, func(m MountInspection) bool { return m.Target == "/v" && strings.HasSuffix(m.Source, "volumes/v") }) {
		t.Errorf("mounts %+v", c.Mounts)
	}
	if !slices.ContainsFunc(c.Processes, func(p ProcessInspection) bool { return p.PID == c.PID && p.Inside == 1 && p.Command[0] == "bash" }) {
		t.Errorf("processes %+v, PID %d", c.Processes, c.PID)
	}
	if !slices.Contains(got.Routes, RouteInspection{"default", "10.244.0.1", "eth0"}) || !slices.ContainsFunc(got.Links, func(l LinkInspection) bool {
		return l.Name == "eth0" && l.Type == "veth" && slices.Contains(l.Addresses, "10.244.0.2/32")
	}) {
		t.Errorf("links %+v, routes %+v", got.Links, got.Routes)
	}
	if n.root && (c.Cgroup.Limits.Memory != 64<<20 || c.Cgroup.Usage.Pids == 0 || !strings.HasSuffix(c.Cgroup.Path, "/default_web/main")) {
		t.Errorf("cgroup %+v", c.Cgroup)
	}
}
