package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"svcproxy/cluster"
)

type getFlags struct {
	*sandboxFlags
	namespace string
	labels    string
	output    string
	all       bool
}

func newSandboxGet(f *sandboxFlags) *cobra.Command {
	g := &getFlags{sandboxFlags: f}
	c := &cobra.Command{
		Use:   "get [KIND] [NAME…]",
		Short: "Show objects, with their status",
		Long: `Get shows pods, services, endpointslices, nodes, configmaps, secrets, namespaces or events (with their usual
abbreviations, several by commas). Without a kind it shows pods.`,
		Example: `  svcproxy sandbox get pods -A -o wide
  svcproxy sandbox get box -o jsonpath='{.status.podIPs[*].ip}'`,
		RunE: func(c *cobra.Command, args []string) error { return g.run(c, args) },
	}
	flags := c.Flags()
	namespaceFlag(flags, &g.namespace)
	flags.BoolVarP(&g.all, "all-namespaces", "A", false, "objects of all namespaces")
	flags.StringVarP(&g.labels, "selector", "l", "", "label selector")
	flags.StringVarP(&g.output, "output", "o", "table", "form: "+cluster.Outputs)
	return c
}

func (g *getFlags) run(c *cobra.Command, args []string) error {
	output, err := cluster.ParseOutput(g.output)
	if err != nil {
		return usageError{fmt.Errorf("--output: %w", err)}
	}
	selection, err := g.selection(args)
	if err != nil {
		return err
	}
	client, err := g.client(c)
	if err != nil {
		return err
	}
	found, err := client.Get(c.Context(), selection)
	if err != nil {
		return hint(err)
	}
	if len(found) == 0 && (output.Format == "" || output.Format == "wide") {
		fmt.Fprintln(c.ErrOrStderr(), "No resources found")
		return nil
	}
	return output.Print(c.OutOrStdout(), cluster.Listing{
		Objects: found, Single: len(selection.Refs) == 1, Namespaces: g.all, Now: time.Now(),
	})
}

func (g *getFlags) selection(args []string) (cluster.Selection, error) {
	kinds := []cluster.Kind{cluster.Pods}
	if len(args) > 0 {
		if named, ok := parseKinds(args[0]); ok {
			kinds, args = named, args[1:]
		}
	}
	if len(args) == 0 {
		s := cluster.Selection{Kinds: kinds, Namespace: g.namespace, Labels: g.labels}
		if g.all {
			s.Namespace = ""
		}
		return s, nil
	}
	if g.all || g.labels != "" {
		return cluster.Selection{}, usageError{errors.New("get: names go neither with -A nor with -l")}
	}
	if len(kinds) > 1 {
		return cluster.Selection{}, usageError{errors.New("get: names go with one kind")}
	}
	named, err := refs(args, kinds[0], g.namespace)
	return cluster.Selection{Refs: named}, err
}

// parseKinds reads kinds, separated by commas. A word that is no kind is an object's name.
func parseKinds(text string) ([]cluster.Kind, bool) {
	var kinds []cluster.Kind
	for word := range strings.SplitSeq(text, ",") {
		kind, ok := cluster.ParseKind(word)
		if !ok {
			return nil, false
		}
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds, true
}

func newSandboxLogs(f *sandboxFlags) *cobra.Command {
	var namespace string
	var request cluster.LogRequest
	var since time.Duration
	options := cluster.LogOptions{Tail: -1}
	c := &cobra.Command{
		Use:   "logs POD",
		Short: "Print what a container wrote",
		Args:  exactly(1, "the pod's name"),
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if request.Pod, err = podRef(args[0], namespace); err != nil {
				return err
			}
			if since > 0 {
				options.Since = time.Now().Add(-since)
			}
			client, err := f.client(c)
			if err != nil {
				return err
			}
			return hint(client.Logs(c.Context(), request, options, c.OutOrStdout()))
		},
	}
	flags := c.Flags()
	namespaceFlag(flags, &namespace)
	flags.StringVarP(&request.Container, "container", "c", "", "container (default: the first)")
	flags.BoolVarP(&request.Follow, "follow", "f", false, "go on until the container ends")
	flags.BoolVarP(&request.Previous, "previous", "p", false, "the run before the present one")
	flags.IntVar(&options.Tail, "tail", -1, "only so many last lines")
	flags.DurationVar(&since, "since", 0, "only what is not older than this")
	flags.BoolVar(&options.Timestamps, "timestamps", false, "put the time before each line")
	return c
}

func newSandboxForward(f *sandboxFlags) *cobra.Command {
	var namespace string
	addresses := []string{"127.0.0.1"}
	c := &cobra.Command{
		Use:   "port-forward POD|svc/NAME [LOCAL:]REMOTE…",
		Short: "Listen on this machine and lead connections into a pod",
		Args:  atLeast(2, "a pod or Service, and ports"),
		RunE: func(c *cobra.Command, args []string) error {
			target, err := cluster.ParseRef(args[0], cluster.Pods, namespace)
			if err != nil {
				return usageError{err}
			}
			forwards, err := cluster.ParseForwards(addresses, args[1:])
			if err != nil {
				return usageError{err}
			}
			client, err := f.client(c)
			if err != nil {
				return err
			}
			return hint(client.Forward(c.Context(), target, forwards,
				func(local, remote string) { fmt.Fprintf(c.OutOrStdout(), "Forwarding from %s -> %s\n", local, remote) },
				func(err error) { fmt.Fprintln(c.ErrOrStderr(), "svcproxy:", err) }))
		},
	}
	namespaceFlag(c.Flags(), &namespace)
	c.Flags().StringSliceVar(&addresses, "address", addresses, "addresses to listen at")
	return c
}

func newSandboxRollout(f *sandboxFlags) *cobra.Command {
	c := &cobra.Command{Use: "rollout", Short: "Restart pods one after the other", Args: atLeast(1, "restart"),
		RunE: func(_ *cobra.Command, args []string) error {
			return usageError{fmt.Errorf("rollout: unknown command %q: want restart", args[0])}
		}}
	var namespace, labels string
	restart := &cobra.Command{
		Use:   "restart POD…|svc/NAME",
		Short: "Restart pods, or those behind a Service, one after the other",
		Long: `Restart takes one pod after the other out of its Services, ends it gracefully once no new connection goes there, starts
it again, and waits until it is ready. A Service with two pods that end gracefully loses no request.`,
		RunE: func(c *cobra.Command, args []string) error {
			named, err := refs(args, cluster.Pods, namespace)
			if err != nil {
				return err
			}
			if len(named) == 0 && labels == "" {
				return usageError{errors.New("restart: name pods or a Service, or give -l")}
			}
			client, err := f.client(c)
			if err != nil {
				return err
			}
			selection := cluster.Selection{Refs: named, Namespace: namespace, Labels: labels}
			return hint(client.Restart(c.Context(), selection, func(change cluster.Change) { printChanges(c, []cluster.Change{change}) }))
		},
	}
	namespaceFlag(restart.Flags(), &namespace)
	restart.Flags().StringVarP(&labels, "selector", "l", "", "label selector of pods")
	c.AddCommand(restart)
	return c
}

func newSandboxRemove(f *sandboxFlags) *cobra.Command {
	var namespace string
	var files []string
	c := &cobra.Command{
		Use:   "rm POD…|KIND/NAME…",
		Short: "Remove objects, pods gracefully",
		RunE: func(c *cobra.Command, args []string) error {
			named, err := refs(args, cluster.Pods, namespace)
			if err != nil {
				return err
			}
			if len(files) > 0 {
				more, err := cluster.LoadRefs(files)
				if err != nil {
					return err
				}
				named = append(named, more...)
			}
			if len(named) == 0 {
				return usageError{errors.New("rm: name objects, or give -f")}
			}
			client, err := f.client(c)
			if err != nil {
				return err
			}
			changes, err := client.Delete(c.Context(), named)
			printChanges(c, changes)
			return hint(err)
		},
	}
	namespaceFlag(c.Flags(), &namespace)
	c.Flags().StringArrayVarP(&files, "filename", "f", nil, "file or folder whose objects are removed")
	return c
}
