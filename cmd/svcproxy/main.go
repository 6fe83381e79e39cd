// Command svcproxy is a Service proxy for Kubernetes nodes, and the tool to see what it programmed.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
)

// usageError is an error in how a command was called: exit code 2.
type usageError struct{ error }

func main() {
	sandbox.Init()
	// Where iptables is, which the PATH of cron and of ordinary users lacks.
	_ = os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := newRoot().ExecuteContext(ctx)
	interrupted := ctx.Err() != nil
	stop()
	if err == nil {
		return
	}
	if interrupted && errors.Is(err, context.Canceled) {
		os.Exit(128 + int(unix.SIGINT)) // as a shell reports it
	}
	fmt.Fprintln(os.Stderr, "svcproxy:", err)
	if errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "svcproxy: this user may not do that: try as root")
	}
	if usage := (usageError{}); errors.As(err, &usage) {
		os.Exit(2)
	}
	os.Exit(1)
}
