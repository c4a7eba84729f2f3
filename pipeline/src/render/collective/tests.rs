//! The dataflow of sums, between threads that are connected like processes.

use std::net::{TcpListener, TcpStream};
use std::thread;

use super::*;

/// Sockets between every two of `size` ranks, by rank.
fn sockets(size: usize) -> Vec<Sockets> {
    let mut sockets: Vec<Sockets> = (0..size).map(|_| (0..size).map(|_| None).collect()).collect();
    let pairs = (0..size).flat_map(|first| (first + 1..size).map(move |second| (first, second)));
    for (first, second) in pairs {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let caller = TcpStream::connect(listener.local_addr().expect("bound")).expect("somebody listens");
        let (answerer, _) = listener.accept().expect("a call");
        for stream in [&caller, &answerer] {
            stream.set_nodelay(true).expect("a socket");
        }
        (sockets[first][second], sockets[second][first]) = (Some(answerer), Some(caller));
    }
    sockets
}

/// Runs `work` on every one of `size` ranks and returns what they found, by rank.
fn on_ranks<T: Send + 'static>(size: usize, work: fn(&dyn Collective) -> T) -> Vec<T> {
    let run = move |(rank, (small, large)): (usize, (Sockets, Sockets))| {
        thread::spawn(move || {
            let exchange = Exchange::over([small, large], rank, Failure::default()).expect("the sockets are connected");
            let found = work(&*exchange.collective());
            exchange.close();
            found
        })
    };
    let ranks: Vec<_> = sockets(size).into_iter().zip(sockets(size)).enumerate().map(run).collect();
    ranks.into_iter().map(|rank| rank.join().expect("a rank ends well")).collect()
}

/// Odd lengths, buckets shorter than the ranks are many, several under way with a small sum between them.
fn exchange(rank: &dyn Collective) -> Result<Vec<Vec<f32>>, CollectiveError> {
    let lengths = [70_001, 2, 0, 4096, 1_000_003];
    let value = |bucket: usize, i: usize| ((rank.rank() * 31 + bucket * 7 + i % 97) as f32).sin();
    let started: Vec<Box<dyn Pending>> = lengths
        .iter()
        .enumerate()
        .map(|(bucket, &length)| {
            let values: Vec<f32> = (0..length).map(|i| value(bucket, i)).collect();
            rank.start_sum(Tensor::from_vec(values, length, &Device::Cpu)?)
        })
        .collect::<Result<_, CollectiveError>>()?;
    let mut small = [rank.rank() as f64, 0.1];
    rank.sum(&mut small)?;
    rank.barrier()?;
    let said = rank.broadcast(vec![rank.rank() as u8 + 9; 3])?;
    assert_eq!(said, [9, 9, 9]);
    let mut found: Vec<Vec<f32>> =
        started.into_iter().map(|sum| Ok(sum.wait()?.to_vec1()?)).collect::<Result<_, CollectiveError>>()?;
    found.push(small.iter().map(|value| *value as f32).collect());
    Ok(found)
}

#[test]
fn two_and_three_ranks_agree_with_sums_in_rank_order() {
    for size in [2, 3] {
        let found: Vec<_> = on_ranks(size, exchange).into_iter().map(|found| found.expect("all are there")).collect();
        assert!(found.iter().all(|rank| rank == &found[0]), "ranks differ");
        assert_eq!(found[0].iter().map(Vec::len).collect::<Vec<_>>(), [70_001, 2, 0, 4096, 1_000_003, 2]);
        for (bucket, i) in [(0, 0), (0, 70_000), (1, 1), (3, 4095), (4, 1_000_002)] {
            let value = |rank: usize| ((rank * 31 + bucket * 7 + i % 97) as f32).sin();
            let expected = (1..size).fold(value(0), |sum, rank| sum + value(rank));
            assert_eq!(found[0][bucket][i].to_bits(), expected.to_bits(), "bucket {bucket}, value {i}");
        }
        assert_eq!(found[0][5], [(0..size).sum::<usize>() as f32, (0..size).map(|_| 0.1f64).sum::<f64>() as f32]);
    }
}

#[test]
fn ranks_out_of_step_are_told_what_each_gave() {
    let errors = on_ranks(2, |rank| match rank.rank() {
        0 => rank.sum(&mut [1.0, 2.0]).expect_err("the other broadcasts").to_string(),
        _ => rank.broadcast(Vec::new()).expect_err("the other sums").to_string(),
    });
    let expected = "the processes are out of step: rank 0 gives 2 values, rank 1 gives a broadcast";
    assert_eq!(errors, [expected, expected]);
    let errors = on_ranks(2, |rank| {
        let bucket = Tensor::zeros(5 + rank.rank(), candle_core::DType::F32, &Device::Cpu).expect("a tensor");
        rank.start_sum(bucket).expect("it begins").wait().expect_err("lengths differ").to_string()
    });
    let expected =
        "the processes are out of step: rank 0 gives a bucket of 5 values, rank 1 gives a bucket of 6 values";
    assert_eq!(errors, [expected, expected]);
}

#[test]
fn who_waits_when_all_is_lost_is_told_why() {
    let (mut small, mut large) = (sockets(2), sockets(2));
    let (failure, kept) = (Failure::default(), (small.pop(), large.pop()));
    let sockets = [small.remove(0), large.remove(0)];
    let exchange = Exchange::over(sockets, 0, failure.clone()).expect("the sockets are connected");
    let rank = exchange.collective();
    let waiting = thread::spawn(move || rank.barrier());
    thread::sleep(Duration::from_millis(20));
    failure.set("process 1 (there) is gone");
    let error = waiting.join().expect("no panic").expect_err("nobody else comes");
    assert_eq!(error.to_string(), "process 1 (there) is gone");
    exchange.close();
    drop(kept);
}

/// Prints what a sum costs between two ranks on this machine: `cargo test --release -- --ignored --nocapture sums_take`.
#[test]
#[ignore = "measures, and asserts nothing"]
#[expect(clippy::print_stdout, reason = "it is there to be read")]
fn sums_take() {
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let times = on_ranks(2, |rank| {
        let timed = |work: &dyn Fn()| {
            rank.barrier().expect("both come");
            let started = std::time::Instant::now();
            work();
            started.elapsed().as_secs_f64() * 1e3
        };
        let small = || rank.sum(&mut [1.0; 1025]).expect("both come");
        let bucket = || Tensor::ones(1 << 20, candle_core::DType::F32, &Device::Cpu).expect("a tensor");
        let large = |count: usize| {
            let started: Vec<_> = (0..count).map(|_| rank.start_sum(bucket()).expect("it begins")).collect();
            started.into_iter().for_each(|sum| drop(sum.wait().expect("both come")));
        };
        let small: Vec<f64> = (0..200).map(|_| timed(&small)).collect();
        let one: Vec<f64> = (0..40).map(|_| timed(&|| large(1))).collect();
        let four: Vec<f64> = (0..40).map(|_| timed(&|| large(4))).collect();
        [small, one, four]
    });
    let [small, one, four] = times.into_iter().next().expect("a rank").map(median);
    println!("1025 f64: {small:.3} ms; one bucket of 4 MiB: {one:.2} ms; four of them: {four:.2} ms (medians)");
}
