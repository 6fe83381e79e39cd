package kubelet

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"svcproxy/sandbox"
)

func (k *Kubelet) runOf(name types.NamespacedName, container string) (*run, error) {
	w, err := k.worker(name)
	if err != nil {
		return nil, err
	}
	c, err := w.container(container)
	if err != nil {
		return nil, err
	}
	return c.running()
}

// Exec starts a program in a container as kubectl exec does: as the container's user, in its folder, cgroup and confinement,
// with its environment, to which cfg.Env adds. Of cfg only Args, Env, Terminal, Size and the streams count. container
// may be empty for the default one.
func (k *Kubelet) Exec(name types.NamespacedName, container string, cfg sandbox.ExecConfig) (*sandbox.Process, error) {
	r, err := k.runOf(name, container)
	if err != nil {
		return nil, err
	}
	env := r.setup.Env
	if cfg.Terminal && !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
		env = append(slices.Clone(env), "TERM=xterm")
	}
	cfg.Env = mergeEnv(env, cfg.Env)
	cfg.Dir, cfg.Profile = r.setup.Dir, r.setup.Profile
	return r.task.Exec(cfg)
}

// OOMKills tells how often the kernel has killed something in a container for want of memory, and what there is to say of
// it: the container, the pod and its limit. A program of Exec was killed so if the number has grown since its start.
func (k *Kubelet) OOMKills(name types.NamespacedName, container string) (count uint64, message string, err error) {
	w, err := k.worker(name)
	if err != nil {
		return 0, "", err
	}
	c, err := w.container(container)
	if err != nil {
		return 0, "", err
	}
	return c.oomKills(), "OOMKilled: a process of " + c.oomMessage(), nil
}

// mergeEnv replaces variables by those of the same name and adds the others.
func mergeEnv(env, more []string) []string {
	out := slices.Clone(env)
	for _, e := range more {
		name, _, _ := strings.Cut(e, "=")
		out = slices.DeleteFunc(out, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		out = append(out, e)
	}
	return out
}

// Log names the file of what a container printed in its present or last run, or in the run before that. Its lines are read
// by ParseLogLine. A file that has grown to 10 MiB is renamed to its name and ".1", and another begun.
func (k *Kubelet) Log(name types.NamespacedName, container string, previous bool) (path string, err error) {
	w, err := k.worker(name)
	if err != nil {
		return "", err
	}
	c, err := w.container(container)
	if err != nil {
		return "", err
	}
	c.out.mu.Lock()
	run := c.out.run
	c.out.mu.Unlock()
	what := "container"
	if previous {
		run--
		what = "previous terminated container"
	}
	path = c.out.path(run)
	if _, err := os.Stat(path); run < 0 || err != nil {
		if !previous {
			return "", fmt.Errorf("pod %s: container %s is waiting to start: %s", name, c.rec.name, w.waiting(c.rec))
		}
		return "", fmt.Errorf("pod %s: %s %s not found", name, what, c.rec.name)
	}
	return path, nil
}

// waiting says why a container has not started.
func (w *worker) waiting(r *record) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.state.Waiting == nil {
		return "it printed nothing that could be kept"
	}
	return strings.TrimSuffix(r.state.Waiting.Reason+": "+r.state.Waiting.Message, ": ")
}

// Dial connects to a port on the pod's own loopback interface, from inside the pod, as kubectl port-forward does: IPv4
// first.
func (k *Kubelet) Dial(ctx context.Context, name types.NamespacedName, port int) (net.Conn, error) {
	w, err := k.worker(name)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	l := w.life
	w.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("pod %s is not running", name)
	}
	conn, err := l.box.Dial(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		if six, err6 := l.box.Dial(ctx, "tcp", net.JoinHostPort("::1", strconv.Itoa(port))); err6 == nil {
			return six, nil
		}
		return nil, fmt.Errorf("pod %s: %w", name, err)
	}
	return conn, nil
}
