package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"svcproxy/netns"
)

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "svcproxy",
		Short: "A Service proxy for Kubernetes nodes that can show what it does",
		Long: `svcproxy makes the virtual addresses of Kubernetes Services work on a node, as kube-proxy does, by
programming the kernel's netfilter, and shows what is programmed.`,
		Args:          cobra.ArbitraryArgs,
		RunE:          unknownCommand,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%s: %w", c.Name(), err)}
	})
	root.SuggestionsMinimumDistance = 2
	root.AddCommand(newRun(), newRender(), newDump(), newDemo(), newSandbox(), newDNS(), newCleanup(), newVersion())
	return root
}

// unknownCommand shows the help where no command was given, and else refuses the one that was.
func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	hint := ""
	if like := c.SuggestionsFor(args[0]); len(like) > 0 {
		hint = "; did you mean " + strings.Join(like, " or ") + "?"
	}
	return usageError{fmt.Errorf("unknown command %q%s", args[0], hint)}
}

// noArgs refuses arguments as a usage error.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s: unexpected argument %q", c.Name(), args[0])}
	}
	return nil
}

// checkNetns tells at once, and in one way for every backend, that a namespace can't be entered.
func checkNetns(path string) error {
	if err := netns.Do(path, func() error { return nil }); err != nil {
		return fmt.Errorf("--netns: %w", err)
	}
	return nil
}

// unknown reports a flag value that is none of those wanted.
func unknown(flag, value, want string) error {
	return usageError{fmt.Errorf("--%s: unknown value %q: want %s", flag, value, want)}
}
