package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// logPoll is how often a log that is followed is looked at.
const logPoll = 50 * time.Millisecond

// Logs prints what a container wrote. If the request follows, it goes on until the container's run has ended or ctx
// has.
func (c *Client) Logs(ctx context.Context, r LogRequest, o LogOptions, to io.Writer) error {
	s, err := c.begin(ctx, methodLog, r)
	if err != nil {
		return err
	}
	defer s.Close()
	files, done, err := s.next(ctx, nil)
	if err != nil {
		return err
	}
	defer closeAll(files)
	if len(files) != 1 {
		return fmt.Errorf("%s: the supervisor sent no log", r.Pod)
	}
	printer := newLogPrinter(to, o)
	if err := copyLog(printer, files[0]); err != nil {
		return err
	}
	if err := printer.flush(); err != nil || done || !r.Follow {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		_, _, err := s.next(ctx, nil)
		ended <- err
	}()
	poll := time.NewTicker(logPoll)
	defer poll.Stop()
	for {
		select {
		case err := <-ended:
			return errors.Join(err, copyLog(printer, files[0]))
		case <-poll.C:
			if err := copyLog(printer, files[0]); err != nil {
				return err
			}
		}
	}
}

// copyLog prints what is new.
func copyLog(printer *logPrinter, file *os.File) error {
	_, err := io.Copy(printer, struct{ io.Reader }{file})
	return err
}
