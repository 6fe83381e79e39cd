package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"svcproxy/cluster"
)

// sandboxFlags say which sandbox a command is about.
type sandboxFlags struct {
	name     string
	stateDir string
}

func (f *sandboxFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.name, "name", "default", "name of the sandbox")
	flags.StringVar(&f.stateDir, "state-dir", "", "folder of this user's sandboxes (default: /run/svcproxy/sandbox for root, else in $XDG_RUNTIME_DIR or /tmp)")
}

func (f *sandboxFlags) root() (string, error) {
	if err := cluster.CheckName(f.name); err != nil {
		return "", usageError{fmt.Errorf("--name: %w", err)}
	}
	return cluster.Root(f.stateDir)
}

// client talks to the sandbox.
func (f *sandboxFlags) client(c *cobra.Command) (*cluster.Client, error) {
	root, err := f.root()
	if err != nil {
		return nil, err
	}
	client, err := cluster.NewClient(root, f.name, versionString())
	if err != nil {
		return nil, err
	}
	client.Warn = func(text string) { fmt.Fprintln(c.ErrOrStderr(), "svcproxy:", text) }
	return client, nil
}

// hint says what to do about a sandbox that is not up.
func hint(err error) error {
	if errors.Is(err, cluster.ErrNotUp) {
		return fmt.Errorf("%w: start it by 'svcproxy sandbox up'", err)
	}
	return err
}

func newSandbox() *cobra.Command {
	f := &sandboxFlags{}
	c := &cobra.Command{
		Use:   "sandbox",
		Short: "Run pods on this machine, without a cluster and without root",
		Long: `Sandbox makes a cluster of one node out of Linux primitives: namespaces, veth pairs, mounts, cgroups. It
runs the pods of ordinary manifests and, with --proxy, leads their Services to them. Nothing of the machine's own
network is touched, and 'sandbox down' removes all of it.`,
		Example: `  svcproxy sandbox up -f examples/lab/web.yaml --proxy
  svcproxy sandbox get pods -o wide
  svcproxy sandbox exec web-a -- svcproxy version
  svcproxy sandbox port-forward svc/web 8080:80
  svcproxy sandbox down`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			hint := ""
			if like := c.SuggestionsFor(args[0]); len(like) > 0 {
				hint = "; did you mean " + strings.Join(like, " or ") + "?"
			}
			return usageError{fmt.Errorf("sandbox: unknown command %q%s", args[0], hint)}
		},
	}
	f.register(c.PersistentFlags())
	c.AddCommand(newSandboxUp(f), newSandboxRun(f), newSandboxSet(f), newSandboxGet(f), newSandboxExec(f), newSandboxList(f),
		newSandboxInspect(f), newSandboxLogs(f), newSandboxForward(f), newSandboxRollout(f), newSandboxRemove(f), newSandboxDown(f),
		newSandboxSupervise(), newSandboxEcho())
	return c
}

// namespaceFlag is -n, as kubectl has it.
func namespaceFlag(flags *pflag.FlagSet, namespace *string) {
	flags.StringVarP(namespace, "namespace", "n", "default", "namespace of the objects")
}

// refs reads the names of objects.
func refs(args []string, kind cluster.Kind, namespace string) ([]cluster.Ref, error) {
	var all []cluster.Ref
	for _, text := range args {
		r, err := cluster.ParseRef(text, kind, namespace)
		if err != nil {
			return nil, usageError{err}
		}
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	return all, nil
}

// podRef reads the name of a pod.
func podRef(text, namespace string) (cluster.Ref, error) {
	r, err := cluster.ParseRef(text, cluster.Pods, namespace)
	if err == nil && r.Kind != cluster.Pods {
		err = fmt.Errorf("%s is no pod", r)
	}
	if err != nil {
		return r, usageError{err}
	}
	return r, nil
}

// atLeast wants arguments, named in the error.
func atLeast(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < n {
			return usageError{fmt.Errorf("%s: want %s", c.Name(), what)}
		}
		return nil
	}
}

// exactly wants just so many arguments.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("%s: want %s", c.Name(), what)}
		}
		return nil
	}
}

// supervise is the argv by which cluster starts this program as a supervisor.
var supervise = []string{"svcproxy", "sandbox", "supervise"}

// startSandbox makes sure that the sandbox is up.
func (f *sandboxFlags) start(c *cobra.Command, config cluster.Config, asked []string) (*cluster.Client, bool, error) {
	root, err := f.root()
	if err != nil {
		return nil, false, err
	}
	config.Name = f.name
	client, started, err := cluster.Start(c.Context(), root, cluster.StartOptions{
		Config: config, Asked: asked, Command: supervise, Version: versionString(),
	})
	if err != nil {
		return nil, false, err
	}
	client.Warn = func(text string) { fmt.Fprintln(c.ErrOrStderr(), "svcproxy:", text) }
	return client, started, nil
}

// printChanges prints a line for each object, as kubectl does.
func printChanges(c *cobra.Command, changes []cluster.Change) {
	for _, change := range changes {
		fmt.Fprintln(c.OutOrStdout(), change)
	}
}

// podsOf are the pods among the changed objects that are still there.
func podsOf(changes []cluster.Change) []cluster.Ref {
	var pods []cluster.Ref
	for _, change := range changes {
		if change.Kind == cluster.Pods && change.Action != cluster.Deleted {
			pods = append(pods, change.Ref)
		}
	}
	return pods
}

// waitReady waits for pods, unless nobody wants to.
func waitReady(ctx context.Context, client *cluster.Client, pods []cluster.Ref, timeout time.Duration) error {
	if len(pods) == 0 || timeout <= 0 {
		return nil
	}
	return client.Wait(ctx, pods, timeout)
}
