package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"svcproxy/cluster"
)

// limitFlags are the limits of a container.
func limitFlags(c *cobra.Command, l *cluster.Limits) {
	c.Flags().StringVar(&l.Memory, "memory", "", "limit of memory in bytes, such as 64Mi")
	c.Flags().StringVar(&l.CPU, "cpu", "", "limit of cores, such as 500m")
	c.Flags().StringVar(&l.Pids, "pids", "", "limit of processes")
}

type podFlags struct {
	*sandboxFlags
	cluster.PodOptions
	labels  []string
	volumes []string
	remove  bool
	timeout time.Duration
}

func newSandboxRun(f *sandboxFlags) *cobra.Command {
	p := &podFlags{sandboxFlags: f}
	c := &cobra.Command{
		Use:   "run NAME --image IMAGE [-- COMMAND ARG…]",
		Short: "Run a pod of one container",
		Long: `Run makes a pod, in a sandbox that it starts if need be. IMAGE is host:PROGRAM,PROGRAM… (programs of this
machine with the libraries that they need; svcproxy is this program itself), oci:FOLDER[:TAG], oci-archive:FILE,
docker-archive:FILE, or rootfs:FOLDER below a folder that 'up --allow-host-path' gave.`,
		Example: `  svcproxy sandbox run box -it --rm --image host:bash,ls,ps,ip -- bash
  svcproxy sandbox run web --image host:svcproxy --port 8080 -l app=web -- svcproxy sandbox echo`,
		Args: atLeast(1, "the pod's name"),
		RunE: func(c *cobra.Command, args []string) error { return p.run(c, args) },
	}
	flags := c.Flags()
	namespaceFlag(flags, &p.Namespace)
	flags.StringVar(&p.Image, "image", "", "what is in the container; must be given")
	flags.BoolVarP(&p.Stdin, "stdin", "i", false, "give it this command's standard input, and wait for its end")
	flags.BoolVarP(&p.TTY, "tty", "t", false, "give it a terminal, with -i")
	flags.BoolVar(&p.remove, "rm", false, "remove the pod when it has ended, for which the command waits")
	flags.StringVar(&p.RestartPolicy, "restart", "", "Always, OnFailure or Never (default: Always, or Never with -i or --rm)")
	flags.StringArrayVar(&p.Env, "env", nil, "variable NAME=VALUE; may be given more than once")
	flags.StringSliceVarP(&p.labels, "labels", "l", nil, "labels NAME=VALUE")
	flags.Int32SliceVar(&p.Ports, "port", nil, "ports that the container listens on")
	flags.StringArrayVarP(&p.volumes, "volume", "v", nil, "folder of this machine to mount, HOST:CONTAINER[:ro]; see 'up --allow-host-path'")
	flags.DurationVar(&p.timeout, "timeout", time.Minute, "how long to wait until the pod is ready, or runs; 0 does not wait")
	limitFlags(c, &p.Limits)
	return c
}

func (p *podFlags) run(c *cobra.Command, args []string) error {
	if err := p.complete(c, args); err != nil {
		return err
	}
	manifests, err := p.Manifests()
	if err != nil {
		return err
	}
	client, _, err := p.start(c, cluster.Config{}, nil)
	if err != nil {
		return err
	}
	changes, err := client.Apply(c.Context(), manifests, true)
	if err != nil {
		return err
	}
	pods := podsOf(changes)
	if !p.Stdin && !p.remove {
		printChanges(c, changes)
		return waitReady(c.Context(), client, pods, p.timeout)
	}
	code, err := p.attach(c.Context(), client, pods[0])
	if p.remove {
		// Also after Ctrl-C.
		_, gone := client.Delete(context.WithoutCancel(c.Context()), pods)
		err = errors.Join(err, gone)
	}
	return exitWith(code, err)
}

// complete reads what the flags mean together.
func (p *podFlags) complete(c *cobra.Command, args []string) error {
	p.Name, p.Args, p.Command = args[0], args[1:], len(args) > 1
	switch {
	case p.Image == "":
		return usageError{errors.New("run: --image is missing")}
	case p.TTY && !p.Stdin:
		return usageError{errors.New("run: -t goes with -i")}
	case p.RestartPolicy == "" && (p.Stdin || p.remove):
		p.RestartPolicy = "Never"
	}
	if p.TTY && !term.IsTerminal(int(os.Stdin.Fd())) {
		fmt.Fprintln(c.ErrOrStderr(), "svcproxy: standard input is no terminal: going on without one")
		p.TTY = false
	}
	p.Labels = map[string]string{}
	for _, l := range p.labels {
		name, value, ok := strings.Cut(l, "=")
		if !ok {
			return usageError{fmt.Errorf("--labels: %q: want NAME=VALUE", l)}
		}
		p.Labels[name] = value
	}
	for _, text := range p.volumes {
		parts := strings.Split(text, ":")
		if len(parts) < 2 || len(parts) > 3 || len(parts) == 3 && parts[2] != "ro" {
			return usageError{fmt.Errorf("--volume: %q: want HOST:CONTAINER or HOST:CONTAINER:ro", text)}
		}
		p.Volumes = append(p.Volumes, cluster.Volume{Host: parts[0], Container: parts[1], ReadOnly: len(parts) == 3})
	}
	return nil
}

func (p *podFlags) attach(ctx context.Context, client *cluster.Client, pod cluster.Ref) (int, error) {
	streams := cluster.Streams{Out: os.Stdout, Err: os.Stderr}
	if p.Stdin {
		streams.In = os.Stdin
	}
	if p.TTY {
		streams.Terminal = os.Stdin
	}
	return client.Attach(ctx, cluster.ExecRequest{Pod: pod, Terminal: p.TTY, Timeout: p.timeout}, streams)
}

func newSandboxSet(f *sandboxFlags) *cobra.Command {
	var namespace, container string
	var limits cluster.Limits
	c := &cobra.Command{
		Use:   "set POD",
		Short: "Change the limits of a container while it runs",
		Args:  exactly(1, "the pod's name"),
		RunE: func(c *cobra.Command, args []string) error {
			if limits == (cluster.Limits{}) {
				return usageError{errors.New("set: give --memory, --cpu or --pids")}
			}
			pod, err := podRef(args[0], namespace)
			if err != nil {
				return err
			}
			client, err := f.client(c)
			if err != nil {
				return err
			}
			if err := client.SetLimits(c.Context(), pod, container, limits); err != nil {
				return hint(err)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s resource limits updated\n", pod)
			return nil
		},
	}
	namespaceFlag(c.Flags(), &namespace)
	c.Flags().StringVarP(&container, "container", "c", "", "container (default: the first)")
	limitFlags(c, &limits)
	return c
}

// execFlags are the flags of exec.
type execFlags struct {
	*sandboxFlags
	namespace, container        string
	stdin, tty, onNode, outside bool
}

func newSandboxExec(f *sandboxFlags) *cobra.Command {
	e := &execFlags{sandboxFlags: f}
	c := &cobra.Command{
		Use:   "exec POD -- COMMAND ARG…",
		Short: "Run a program in a pod, on the node, or as a client outside",
		Long: `Exec runs a program in a container of a pod and ends with its exit code. With --node it runs a program of this
machine in the node's network, with --outside in that of a host which is no part of the cluster.`,
		Example: `  svcproxy sandbox exec -it box -- bash
  svcproxy sandbox exec --node -- ip route`,
		Args: atLeast(1, "a pod and a command"),
		RunE: func(c *cobra.Command, args []string) error { return e.run(c, args) },
	}
	flags := c.Flags()
	namespaceFlag(flags, &e.namespace)
	flags.StringVarP(&e.container, "container", "c", "", "container (default: the first)")
	flags.BoolVarP(&e.stdin, "stdin", "i", false, "give it this command's standard input")
	flags.BoolVarP(&e.tty, "tty", "t", false, "give it a terminal, with -i")
	flags.BoolVar(&e.onNode, "node", false, "on the node instead of in a pod")
	flags.BoolVar(&e.outside, "outside", false, "on the host outside the cluster instead of in a pod")
	return c
}

func (e *execFlags) run(c *cobra.Command, args []string) error {
	r, err := e.request(c, args)
	if err != nil {
		return err
	}
	client, err := e.client(c)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	streams := cluster.Streams{Out: os.Stdout, Err: os.Stderr, Signals: signals}
	if e.stdin {
		streams.In = os.Stdin
	}
	if r.Terminal {
		streams.Terminal = os.Stdin
	}
	// They are the program's, not this one's: the context that they cancel is not used.
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	code, err := client.Exec(context.WithoutCancel(c.Context()), r, streams)
	return exitWith(code, hint(err))
}

func (e *execFlags) request(c *cobra.Command, args []string) (cluster.ExecRequest, error) {
	r := cluster.ExecRequest{Place: cluster.InPod, Container: e.container, Terminal: e.tty}
	switch {
	case e.onNode && e.outside:
		return r, usageError{errors.New("exec: --node does not go with --outside")}
	case e.tty && !e.stdin:
		return r, usageError{errors.New("exec: -t goes with -i")}
	case e.onNode:
		r.Place = cluster.OnNode
	case e.outside:
		r.Place = cluster.Outside
	default:
		pod, err := podRef(args[0], e.namespace)
		if err != nil {
			return r, err
		}
		r.Pod = pod
		if args = args[1:]; len(args) > 0 && args[0] == "--" {
			args = args[1:]
		}
	}
	if len(args) == 0 {
		return r, usageError{errors.New("exec: want a command")}
	}
	r.Args = args
	if r.Place != cluster.InPod {
		r.Env = os.Environ()
		if dir, err := os.Getwd(); err == nil {
			r.Dir = dir
		}
	}
	if e.tty && !term.IsTerminal(int(os.Stdin.Fd())) {
		fmt.Fprintln(c.ErrOrStderr(), "svcproxy: standard input is no terminal: going on without one")
		r.Terminal = false
	}
	return r, nil
}

// exitWith ends with a program's exit code, once all that was begun has been ended.
func exitWith(code int, err error) error {
	if failed := (*cluster.RemoteError)(nil); errors.As(err, &failed) && failed.Code != 0 {
		fmt.Fprintln(os.Stderr, "svcproxy:", err)
		os.Exit(failed.Code)
	}
	if err != nil {
		return err
	}
	if code != 0 {
		os.Exit(code)
	}
	return nil
}
