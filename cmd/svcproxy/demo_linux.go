package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"svcproxy/demo"
	"svcproxy/sandbox"
)

func newDemo() *cobra.Command {
	mode := "auto"
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job in a private network, without root",
		Long: `Demo builds a node and pods in network namespaces of its own, runs svcproxy between them, and shows
with dig, curl and others what it does. It needs no root, touches nothing outside, and leaves nothing behind.
It exits non-zero when something is not as it must be.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o := demo.Options{Mode: mode, Out: c.OutOrStdout(), Colour: term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""}
			switch mode {
			case "auto":
				o.Mode = "nftables"
			case "nftables", "iptables":
			default:
				return unknown("proxy-mode", mode, "auto, nftables or iptables")
			}
			err := sandbox.Isolated()
			if err == nil {
				return demo.Run(c.Context(), o)
			}
			if !errors.Is(err, sandbox.ErrNotIsolated) {
				return err
			}
			demo.Prepare(c.Context(), o.Mode, func(format string, args ...any) {
				fmt.Fprintf(c.ErrOrStderr(), "demo: "+format+"\n", args...)
			})
			code, err := sandbox.Isolate(sandbox.Isolation{})
			if err != nil {
				return fmt.Errorf("demo: %w", err)
			}
			os.Exit(code)
			return nil
		},
	}
	c.Flags().StringVar(&mode, "proxy-mode", mode, "backend: auto (nftables), nftables or iptables")
	return c
}
