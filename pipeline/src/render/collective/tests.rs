//! The dataflow of sums, between threads that are connected like processes.

use std::net::TcpListener;
use std::thread;

use super::*;

/// Sockets between every two of `size` ranks, by rank.
fn sockets(size: usize) -> Vec<Vec<Option<TcpStream>>> {
    let mut sockets: Vec<Vec<Option<TcpStream>>> = (0..size).map(|_| (0..size).map(|_| None).collect()).collect();
    for first in 0..size {
        for second in first + 1..size {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let caller = TcpStream::connect(listener.local_addr().expect("bound")).expect("somebody listens");
            let (answerer, _) = listener.accept().expect("a call");
            for stream in [&caller, &answerer] {
                stream.set_nodelay(true).expect("a socket");
            }
            (sockets[first][second], sockets[second][first]) = (Some(answerer), Some(caller));
        }
    }
    sockets
}

/// Runs `work` on every one of `size` ranks and returns what they found, by rank.
fn on_ranks<T: Send + 'static>(size: usize, work: fn(&dyn Collective) -> T) -> Vec<T> {
    let run = move |(rank, sockets): (usize, Vec<Option<TcpStream>>)| {
        thread::spawn(move || {
            let exchange = Exchange::start(sockets, rank, Failure::default()).expect("the sockets are connected");
            let found = work(&*exchange.collective());
            exchange.close();
            found
        })
    };
    let ranks: Vec<_> = sockets(size).into_iter().enumerate().map(run).collect();
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
        0 => rank.sum(&mut [1.0]).expect_err("the other gives a bucket").to_string(),
        _ => {
            let bucket = Tensor::zeros(5, candle_core::DType::F32, &Device::Cpu).expect("a tensor");
            let sum = rank.start_sum(bucket).expect("it begins");
            sum.wait().expect_err("the other gives values").to_string()
        }
    });
    let expected = "the processes are out of step: rank 0 gives 1 values, rank 1 gives a bucket of 5 values";
    assert_eq!(errors, [expected, expected]);
}

#[test]
fn who_waits_when_all_is_lost_is_told_why() {
    let mut sockets = sockets(2);
    let (failure, kept) = (Failure::default(), sockets.pop());
    let exchange = Exchange::start(sockets.remove(0), 0, failure.clone()).expect("the sockets are connected");
    let rank = exchange.collective();
    let waiting = thread::spawn(move || rank.barrier());
    thread::sleep(Duration::from_millis(20));
    failure.set("process 1 (there) is gone");
    let error = waiting.join().expect("no panic").expect_err("nobody else comes");
    assert_eq!(error.to_string(), "process 1 (there) is gone");
    exchange.close();
    drop(kept);
}
